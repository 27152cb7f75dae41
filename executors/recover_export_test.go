package executors

import "context"

// For the tests in executors_test.
var (
	MergePassfile = mergePassfile
	FitsPassfile  = fitsPassfile
	ParseHistory  = parseHistory
	QuoteLiteral  = quoteLiteral
)

// RecoverInside recovers as if the data directory were a mount point.
func RecoverInside(ctx context.Context, p Postgres, up Upstream, o RecoverOptions) (Recovered, error) {
	r := recovery{ctx: ctx, p: p, up: up, o: o, inside: true}
	r.defaults()
	err := r.run()
	if r.src.conn != nil {
		closeConn(r.src.conn)
	}
	return r.result, err
}

// Judge lays out two histories and says how the node comes back.
func Judge(node, up []pastTimeline) (how string) {
	last := func(h []pastTimeline) []span { return spans(h[:len(h)-1], h[len(h)-1].Timeline, h[len(h)-1].End) }
	return judge(last(node), last(up)).how
}

// MergeAutoConf takes pairs of name and value.
func MergeAutoConf(old string, set [][2]string, unset []string) string {
	var list []setting
	for _, s := range set {
		list = append(list, setting{s[0], s[1]})
	}
	return mergeAutoConf(old, list, unset)
}

// PastTimeline is what Judge takes; the last one of a list is the current one.
type PastTimeline = pastTimeline
