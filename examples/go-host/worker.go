package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "example.com/go-host/backendpb"
)

const (
	healthEvery = 200 * time.Millisecond
	stopGrace   = 15 * time.Second
	maxMessage  = 50 << 20
)

// Worker is one worker process with a connection to it.
type Worker struct {
	Client pb.BackendClient

	command    *exec.Cmd
	connection *grpc.ClientConn
	ended      chan struct{} // closed once the process is gone and its log is read

	mu       sync.Mutex
	lastLine string // of its log: where a worker ends by a fault, one sentence that says why
}

// StartWorker starts run.sh on a free port and returns once the worker answers Health. A package's first start makes
// an environment and may take minutes: ctx says how long to wait.
func StartWorker(ctx context.Context, runScript string) (*Worker, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	w := &Worker{ended: make(chan struct{}), command: exec.Command(runScript, "--addr", address)}
	w.command.Dir = filepath.Dir(runScript)
	// A group of its own: a Ctrl-C in the terminal reaches the host alone, which then stops the worker in order.
	w.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := w.command.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := w.command.Start(); err != nil {
		return nil, err
	}
	go w.follow(log)
	w.connection, err = grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		w.Stop()
		return nil, err
	}
	w.Client = pb.NewBackendClient(w.connection)
	if err := w.waitUntilHealthy(ctx); err != nil {
		w.Stop()
		return nil, err
	}
	return w, nil
}

// Ended is closed when the process is gone, whoever ended it.
func (w *Worker) Ended() <-chan struct{} { return w.ended }

// HasEnded says the same without waiting.
func (w *Worker) HasEnded() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}

// Pid of the worker itself: run.sh ends in exec.
func (w *Worker) Pid() int { return w.command.Process.Pid }

// ExitCode is valid once Ended is closed; -1 for an end by a signal.
func (w *Worker) ExitCode() int { return w.command.ProcessState.ExitCode() }

// Why it ended, in a sentence; valid once Ended is closed.
func (w *Worker) Why() string {
	if w.ExitCode() < 0 {
		return "ended by " + w.command.ProcessState.String()
	}
	return fmt.Sprintf("ended with code %d: %s", w.ExitCode(), w.LastLine())
}

// LastLine is the last line of the worker's log.
func (w *Worker) LastLine() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lastLine
}

// Stop asks the worker to end, gives running answers their time, and ends it if it does not.
func (w *Worker) Stop() {
	if w.connection != nil {
		defer w.connection.Close()
	}
	if w.HasEnded() {
		return
	}
	group := -w.Pid()
	_ = syscall.Kill(group, syscall.SIGTERM)
	select {
	case <-w.ended:
	case <-time.After(stopGrace):
		_ = syscall.Kill(group, syscall.SIGKILL)
		<-w.ended
	}
}

// follow keeps the last line of the log, and reaps the process when it has ended.
func (w *Worker) follow(log io.Reader) {
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if line := lines.Text(); line != "" {
			w.mu.Lock()
			w.lastLine = line
			w.mu.Unlock()
		}
	}
	_ = w.command.Wait()
	close(w.ended)
}

func (w *Worker) waitUntilHealthy(ctx context.Context) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		reply, err := w.Client.Health(attempt, &pb.HealthMessage{}, grpc.WaitForReady(true))
		cancel()
		if err == nil && string(reply.GetMessage()) == "OK" {
			return nil
		}
		select {
		case <-w.ended:
			return errors.New("the worker " + w.Why())
		case <-ctx.Done():
			return fmt.Errorf("the worker does not answer: %w; it said: %s", ctx.Err(), w.LastLine())
		case <-time.After(healthEvery):
		}
	}
}

func freeAddress() (string, error) {
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer probe.Close()
	return probe.Addr().String(), nil
}
