package natslog

import (
	"fmt"
	"log/slog"
	"sync"
)

// serverLogger passes the NATS server's warnings and errors on, and keeps the
// last fatal one: the server reports a failed start nowhere else.
type serverLogger struct {
	to    *slog.Logger
	mu    sync.Mutex
	fatal error
}

func (l *serverLogger) Noticef(string, ...any) {}
func (l *serverLogger) Debugf(string, ...any)  {}
func (l *serverLogger) Tracef(string, ...any)  {}

func (l *serverLogger) Warnf(format string, v ...any) {
	l.to.Warn("nats server: " + fmt.Sprintf(format, v...))
}

func (l *serverLogger) Errorf(format string, v ...any) {
	l.to.Error("nats server: " + fmt.Sprintf(format, v...))
}

func (l *serverLogger) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fatal = fmt.Errorf(format, v...)
	l.to.Error("nats server: " + l.fatal.Error())
}

func (l *serverLogger) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}
