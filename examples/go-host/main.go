// A host of the worker in Go: it starts it, loads a model, streams, cancels, starts it again when it dies, and stops
// it.
//
//	go run . [-run ../../run.sh] [-model ../tiny-chat/model] [question ...]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	pb "example.com/go-host/backendpb"
)

func main() {
	runScript := flag.String("run", "../../run.sh", "the worker's run.sh")
	model := flag.String("model", "../tiny-chat/model", "a model's directory, or its name on the Hugging Face hub")
	limit := flag.Duration("start-limit", 10*time.Minute, "how long the worker may take to answer")
	flag.Parse()
	if err := run(*runScript, *model, *limit, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(runScript, model string, limit time.Duration, questions []string) error {
	script, err := filepath.Abs(runScript)
	if err != nil {
		return err
	}
	if path, err := filepath.Abs(model); err == nil {
		if _, err := os.Stat(path); err == nil {
			model = path
		}
	}
	interrupted, release := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer release()
	ctx, stop := context.WithCancel(interrupted)
	host := &Host{RunScript: script, Model: &pb.ModelOptions{Model: model}, StartLimit: limit}
	ended := make(chan error, 1)
	go func() {
		ended <- host.Run(ctx)
		stop()
	}()
	err = show(ctx, host, questions)
	stop()
	if failed := <-ended; failed != nil {
		return failed
	}
	return err
}

// show asks the questions, leaves one answer in its middle, and outlives a worker that is killed.
func show(ctx context.Context, host *Host, questions []string) error {
	if len(questions) == 0 {
		questions = []string{"What is the capital of France?"}
	}
	say := func(text string) { fmt.Print(text) }
	for _, question := range questions {
		fmt.Printf("> %s\n", question)
		if err := host.Chat(ctx, question, 100, say); err != nil {
			return err
		}
		fmt.Println()
	}

	fmt.Println("> Count from 1 to 10. (left after three pieces)")
	leaving, leave := context.WithCancel(ctx)
	pieces := 0
	err := host.Chat(leaving, "Count from 1 to 10.", 1000, func(text string) {
		fmt.Print(text)
		if pieces++; pieces == 3 {
			leave()
		}
	})
	leave()
	fmt.Printf("\n%v\n", err)

	worker, err := host.Worker(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("> %s (after kill -9 of the worker)\n", strings.TrimSpace(questions[0]))
	if err := syscall.Kill(worker.Pid(), syscall.SIGKILL); err != nil {
		return err
	}
	<-worker.Ended()
	if err := host.Chat(ctx, questions[0], 100, say); err != nil {
		return err
	}
	fmt.Println()
	return ctx.Err()
}
