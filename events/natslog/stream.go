package natslog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/interrex-ha/interrex/events"
)

// duplicateWindow is how long the server remembers IDs: a retry within it is
// stored once. Longer costs memory at every start.
const duplicateWindow = 2 * time.Minute

// streamConfig is the one configuration that a cluster's log may have: nothing
// is ever deleted from it but by an archiver that trims its head.
func streamConfig(cluster string) jetstream.StreamConfig {
	subjects := make([]string, len(events.Classes))
	for i, class := range events.Classes {
		subjects[i] = fmt.Sprintf("%s%s.*", subjectPrefix(cluster), class)
	}
	return jetstream.StreamConfig{
		Name:              streamName(cluster),
		Description:       "the history of the PostgreSQL cluster " + cluster,
		Subjects:          subjects,
		Storage:           jetstream.FileStorage,
		Replicas:          1,
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardOld,
		MaxConsumers:      -1,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgsPerSubject: -1,
		MaxMsgSize:        -1,
		Duplicates:        duplicateWindow,
		DenyDelete:        true,
		AllowDirect:       true,
		RePublish:         &jetstream.RePublish{Source: subjectPrefix(cluster) + ">", Destination: storedPrefix(cluster) + ">"},
	}
}

// ensureStream makes the stream of a new log, and refuses one whose
// configuration could lose or change events.
func ensureStream(ctx context.Context, js jetstream.JetStream, cluster string) error {
	want := streamConfig(cluster)
	stream, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = js.CreateStream(ctx, want)
	}
	if err != nil {
		return fmt.Errorf("natslog: stream %s: %w", want.Name, err)
	}
	return checkStream(want, stream.CachedInfo().Config)
}

// checkStream names every setting of a stream that differs from what a log
// needs.
func checkStream(want, have jetstream.StreamConfig) error {
	var errs []error
	slices.Sort(want.Subjects)
	slices.Sort(have.Subjects)
	same := func(setting string, need, found any) {
		if need != found {
			errs = append(errs, fmt.Errorf("natslog: stream %s has %s=%v; a log needs %v: recreate the stream, or choose another store directory", have.Name, setting, found, need))
		}
	}
	same("subjects", fmt.Sprint(want.Subjects), fmt.Sprint(have.Subjects))
	same("storage", want.Storage, have.Storage)
	same("persist_mode", want.PersistMode, have.PersistMode)
	same("num_replicas", want.Replicas, have.Replicas)
	same("retention", want.Retention, have.Retention)
	same("max_msgs", want.MaxMsgs, have.MaxMsgs)
	same("max_bytes", want.MaxBytes, have.MaxBytes)
	same("max_age", want.MaxAge, have.MaxAge)
	same("max_msgs_per_subject", want.MaxMsgsPerSubject, have.MaxMsgsPerSubject)
	same("max_msg_size", want.MaxMsgSize, have.MaxMsgSize)
	same("duplicate_window", want.Duplicates, have.Duplicates)
	same("no_ack", false, have.NoAck)
	same("deny_delete", want.DenyDelete, have.DenyDelete)
	same("allow_rollup_hdrs", false, have.AllowRollup)
	same("allow_msg_ttl", false, have.AllowMsgTTL)
	same("allow_direct", want.AllowDirect, have.AllowDirect)
	same("mirror", false, have.Mirror != nil)
	same("sources", 0, len(have.Sources))
	same("subject_transform", false, have.SubjectTransform != nil)
	same("republish", republish(want), republish(have))
	return errors.Join(errs...)
}

func republish(c jetstream.StreamConfig) string {
	if c.RePublish == nil {
		return "none"
	}
	return fmt.Sprintf("%+v", *c.RePublish)
}
