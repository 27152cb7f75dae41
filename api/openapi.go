package api

import (
	"encoding"
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// object is a JSON object in the making; its keys come out sorted.
type object = map[string]any

// document is the OpenAPI document of a table of routes. Its schemas are made of
// the very types that the handlers write.
func document(routes []route, version string) ([]byte, error) {
	schemas := object{}
	paths := object{}
	for _, r := range routes {
		path := strings.Replace(r.path, "{$}", "", 1)
		at, ok := paths[path].(object)
		if !ok {
			at = object{}
			paths[path] = at
		}
		at[strings.ToLower(r.method)] = operation(r, path, schemas)
	}
	return json.MarshalIndent(object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Interrex", "version": version,
			"description": "The cluster as its log tells it. Every answer is made of a state that is at most " + StaleAfter.String() +
				" old; else it is 503 with the reason. HEAD is answered like GET. Health checks and metrics need no token; everything else does when the API has one.",
		},
		"paths": paths,
		"components": object{
			"schemas":         schemas,
			"securitySchemes": object{"token": object{"type": "http", "scheme": "bearer"}},
		},
	}, "", "  ")
}

var inPath = regexp.MustCompile(`\{(\w+)\}`)

func operation(r route, path string, schemas object) object {
	op := object{"summary": r.summary, "operationId": operationID(r.method, path), "responses": responses(r, schemas), "security": []object{}}
	if !r.open {
		op["security"] = []object{{}, {"token": []string{}}}
	}
	params := []object{}
	for _, m := range inPath.FindAllStringSubmatch(path, -1) {
		params = append(params, object{"name": m[1], "in": "path", "required": true, "schema": object{"type": "string"}})
	}
	for _, p := range r.query {
		in, kind := "query", object{"type": "string"}
		if p.in != "" {
			in = p.in
		}
		if p.number {
			kind = object{"type": "integer", "minimum": 0}
		}
		params = append(params, object{"name": p.name, "in": in, "description": p.about, "schema": kind})
	}
	if len(params) > 0 {
		op["parameters"] = params
	}
	if r.body != nil {
		op["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": schema(reflect.TypeOf(r.body).Elem(), schemas)}}}
	}
	return op
}

var notWord = regexp.MustCompile(`\W+`)

func operationID(method, path string) string {
	return strings.ToLower(method) + strings.TrimRight(notWord.ReplaceAllString(path, "_"), "_")
}

func responses(r route, schemas object) object {
	out := object{}
	for _, code := range slices.Sorted(maps.Keys(r.answers)) {
		answer := object{"description": http.StatusText(code)}
		media := "application/json"
		if code == http.StatusOK && r.plain != "" {
			media = r.plain
		}
		if v := r.answers[code]; v != nil {
			answer["content"] = object{media: object{"schema": schema(reflect.TypeOf(v), schemas)}}
		}
		if code == http.StatusAccepted {
			answer["headers"] = object{"Location": object{"description": "Where the request's answer will be.", "schema": object{"type": "string"}}}
		}
		out[strconv.Itoa(code)] = answer
	}
	return out
}

var (
	typeTime = reflect.TypeFor[time.Time]()
	typeRaw  = reflect.TypeFor[json.RawMessage]()
	typeText = reflect.TypeFor[encoding.TextMarshaler]()
)

// schema describes the JSON of a type; structs are kept by their names.
func schema(t reflect.Type, schemas object) object {
	switch {
	case t == typeTime:
		return object{"type": "string", "format": "date-time"}
	case t == typeRaw:
		return object{}
	case t.Implements(typeText):
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schema(t.Elem(), schemas)
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice: // one that was never made is null
		return object{"type": []string{"array", "null"}, "items": schema(t.Elem(), schemas)}
	case reflect.Map:
		if t.Elem().Kind() == reflect.Interface {
			return object{"type": "object"}
		}
		return object{"type": "object", "additionalProperties": schema(t.Elem(), schemas)}
	case reflect.Struct:
		return structSchema(t, schemas)
	}
	return object{"type": "string"}
}

func structSchema(t reflect.Type, schemas object) object {
	ref := object{"$ref": "#/components/schemas/" + schemaName(t)}
	if _, known := schemas[schemaName(t)]; known {
		return ref
	}
	s := object{"type": "object", "additionalProperties": false}
	schemas[schemaName(t)] = s // before its fields, which may name it
	properties, required := fields(t, schemas)
	s["properties"] = properties
	if len(required) > 0 {
		s["required"] = required
	}
	return ref
}

// schemaName tells the types of other packages from the API's own.
func schemaName(t reflect.Type) string {
	pkg := t.PkgPath()[strings.LastIndex(t.PkgPath(), "/")+1:]
	if pkg == "api" {
		return t.Name()
	}
	return strings.ToUpper(pkg[:1]) + pkg[1:] + t.Name()
}

// fields describes a struct's fields; one without omitempty is always there, but
// bodies that are read name all of theirs so.
func fields(t reflect.Type, schemas object) (properties object, required []string) {
	properties = object{}
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			inner, needed := fields(f.Type, schemas)
			maps.Copy(properties, inner)
			required = append(required, needed...)
			continue
		}
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		properties[name] = schema(f.Type, schemas)
		if !strings.Contains(options, "omit") {
			required = append(required, name)
		}
	}
	return properties, required
}
