package executors

import (
	"fmt"
	"os"
	"path/filepath"
)

// tidy completes what a killed run has left. Its programs may still be running.
func (r *recovery) tidy() error {
	if err := r.step("tidy"); err != nil {
		return err
	}
	for _, name := range []string{placeRecovering, placeRejoin, placeNew, placeReady} {
		if !exists(r.at.at(name)) {
			continue
		}
		if _, err := KillAll(r.ctx, r.at.at(name)); err != nil {
			return err
		}
	}
	// A password must not stay because a rewind was killed.
	if err := os.RemoveAll(r.at.at(placeAdmin)); err != nil {
		return fmt.Errorf("remove a passfile: %w", err)
	}
	if err := r.at.finishMoves(r.ctx); err != nil {
		return err
	}
	if err := r.removeNew(); err != nil {
		return err
	}
	if whole(r.at.data) {
		return r.tidyBeside()
	}
	if whole(r.at.at(placeReady)) {
		r.because("completed what an earlier run had made ready")
		return r.swap()
	}
	if old := r.at.at(placeRecovering); whole(old) {
		if err := r.p.Runner.WriteFile(r.ctx, filepath.Join(old, "standby.signal"), nil, 0o600); err != nil {
			return err
		}
		return r.at.bring(r.ctx, old)
	}
	return nil
}

// tidyBeside removes what a complete data directory makes useless; a directory
// in quarantine is kept under another name.
func (r *recovery) tidyBeside() error {
	if err := removeBackup(r.at.at(placeReady), r.at.data); err != nil {
		return err
	}
	if err := os.RemoveAll(r.at.at(placeConf)); err != nil {
		return fmt.Errorf("remove a saved configuration: %w", err)
	}
	for _, name := range []string{placeRecovering, placeRejoin} {
		if old := r.at.at(name); exists(old) {
			if _, err := r.keep(old); err != nil {
				return err
			}
		}
	}
	return nil
}
