package main

import (
	"context"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "example.com/go-host/backendpb"
)

const question = "What is the capital of France?"

// running is a host with tiny-chat that is stopped when the test ends.
func running(t *testing.T) (context.Context, *Host) {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	host := &Host{
		RunScript:  absolute(t, "../../run.sh"),
		Model:      &pb.ModelOptions{Model: absolute(t, "../tiny-chat/model")},
		StartLimit: time.Minute,
	}
	ended := make(chan error, 1)
	go func() { ended <- host.Run(ctx) }()
	t.Cleanup(func() {
		worker, err := host.Worker(ctx)
		stop()
		if failed := <-ended; failed != nil {
			t.Errorf("the host: %v", failed)
		}
		if err == nil && worker.ExitCode() != 0 {
			t.Errorf("the worker ended with code %d: %s", worker.ExitCode(), worker.LastLine())
		}
	})
	return ctx, host
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	whole, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return whole
}

func chat(t *testing.T, ctx context.Context, host *Host) (string, int) {
	t.Helper()
	var answer strings.Builder
	pieces := 0
	err := host.Chat(ctx, question, 100, func(text string) { answer.WriteString(text); pieces++ })
	if err != nil {
		t.Fatal(err)
	}
	return answer.String(), pieces
}

func TestAnAnswerIsStreamedCancelledAndAskedForAgainAfterAKill(t *testing.T) {
	ctx, host := running(t)
	if answer, pieces := chat(t, ctx, host); !strings.Contains(answer, "Paris") || pieces < 2 {
		t.Fatalf("%d pieces: %q", pieces, answer)
	}

	leaving, leave := context.WithCancel(ctx)
	err := host.Chat(leaving, "Tell me a short story.", 5000, func(string) { leave() })
	if status.Code(err) != codes.Canceled {
		t.Fatalf("a cancelled chat ended with %v", err)
	}

	before, err := host.Worker(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(before.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-before.Ended()
	if before.Why() != "ended by signal: killed" {
		t.Fatalf("it %s", before.Why())
	}
	if answer, _ := chat(t, ctx, host); !strings.Contains(answer, "Paris") {
		t.Fatalf("after the kill: %q", answer)
	}
	if after, _ := host.Worker(ctx); after.Pid() == before.Pid() {
		t.Fatal("it is the same process")
	}
}

func TestAModelThatIsNotThereIsToldInTheWorkersWords(t *testing.T) {
	host := &Host{
		RunScript:  absolute(t, "../../run.sh"),
		Model:      &pb.ModelOptions{Model: "/nowhere/at-all"},
		StartLimit: time.Minute,
	}
	err := host.Run(context.Background())
	if err == nil || !strings.Contains(err.Error(), "could not load /nowhere/at-all") {
		t.Fatalf("it ended with %v", err)
	}
}

func TestAWorkerThatDiesAtOnceIsToldWithItsLastLine(t *testing.T) {
	t.Setenv("MLX_WORKER_MAX_ROWS", "none")
	_, err := StartWorker(context.Background(), absolute(t, "../../run.sh"))
	if err == nil || !strings.Contains(err.Error(), "code 2") || !strings.Contains(err.Error(), "MLX_WORKER_MAX_ROWS") {
		t.Fatalf("it ended with %v", err)
	}
}
