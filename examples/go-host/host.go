package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	pb "example.com/go-host/backendpb"
)

const (
	firstPause = time.Second
	lastPause  = 30 * time.Second
)

// Host keeps one worker alive with one model in it.
type Host struct {
	RunScript string
	Model     *pb.ModelOptions
	// StartLimit is how long a worker may take until it answers.
	StartLimit time.Duration

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when worker changes
	worker  *Worker       // nil while none is ready
}

// Run starts the worker, and starts it again whenever it dies, until ctx ends; then it stops it. A worker that does
// not come up the first time is an error, since it would not come up the second time either.
func (h *Host) Run(ctx context.Context) error {
	pause := firstPause
	for first := true; ; first = false {
		worker, err := h.start(ctx)
		if ctx.Err() != nil {
			if worker != nil {
				worker.Stop()
			}
			return nil
		}
		if err != nil && first {
			return err
		}
		if err == nil {
			pause = firstPause
			h.set(worker)
			select {
			case <-ctx.Done():
				h.set(nil)
				worker.Stop()
				return nil
			case <-worker.Ended():
				h.set(nil)
				worker.Stop()
				err = errors.New(worker.Why())
			}
		}
		fmt.Fprintf(os.Stderr, "the worker %v; starting it again\n", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
			pause = min(2*pause, lastPause)
		}
	}
}

// Worker is the one that serves now; it waits while none does, which one that has died no longer does.
func (h *Host) Worker(ctx context.Context) (*Worker, error) {
	for {
		h.mu.Lock()
		worker, changed := h.worker, h.signal()
		h.mu.Unlock()
		if worker != nil && !worker.HasEnded() {
			return worker, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Chat streams the answer to one message; say gets the text piece by piece. It ends with ctx's error when ctx is
// cancelled, which also ends the work in the worker.
func (h *Host) Chat(ctx context.Context, message string, tokens int32, say func(text string)) error {
	worker, err := h.Worker(ctx)
	if err != nil {
		return err
	}
	stream, err := worker.Client.PredictStream(ctx, &pb.PredictOptions{
		Messages:             []*pb.Message{{Role: "user", Content: message}},
		UseTokenizerTemplate: true,
		Tokens:               tokens,
		ModelIdentity:        h.Model.GetModel(),
	})
	if err != nil {
		return err
	}
	for {
		reply, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(reply.GetMessage()) > 0 {
			say(string(reply.GetMessage()))
		}
	}
}

func (h *Host) start(ctx context.Context) (*Worker, error) {
	limited, cancel := context.WithTimeout(ctx, h.StartLimit)
	defer cancel()
	worker, err := StartWorker(limited, h.RunScript)
	if err != nil {
		return nil, err
	}
	result, err := worker.Client.LoadModel(ctx, h.Model)
	if err == nil && !result.GetSuccess() {
		err = errors.New(result.GetMessage())
	}
	if err != nil {
		worker.Stop()
		return nil, fmt.Errorf("could not load %s: %w", h.Model.GetModel(), err)
	}
	return worker, nil
}

func (h *Host) set(worker *Worker) {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.signal())
	h.worker, h.changed = worker, nil
}

// signal is called with mu held.
func (h *Host) signal() chan struct{} {
	if h.changed == nil {
		h.changed = make(chan struct{})
	}
	return h.changed
}
