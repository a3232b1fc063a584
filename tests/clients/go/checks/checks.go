// SPDX-License-Identifier: Apache-2.0

// Package checks is what the Go clients share: one line per check, and the payloads.
package checks

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"reflect"
	"sort"
	"strconv"
	"time"
)

const (
	Ordered = 200
	Wait    = 15 * time.Second
	// Long enough for a message that must not come to come.
	Quiet = 300 * time.Millisecond
)

// Size is a payload to send.
type Size struct {
	Name  string
	Bytes int
}

var Sizes = []Size{{"empty", 0}, {"100 B", 100}, {"1 MiB", 1 << 20}}

// Message is what arrived, in any client.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
	Packet  interface{}
}

// Checks counts what failed.
type Checks struct {
	Client string
	Failed int
}

type failure string

// Check runs body and prints whether it got to its end.
func (c *Checks) Check(what string, body func()) {
	began := time.Now()
	defer func() {
		if why := recover(); why != nil {
			if _, ours := why.(failure); !ours {
				panic(why)
			}
			c.Failed++
			fmt.Printf("failed  %s: %s: %.300s\n", c.Client, what, why)
			return
		}
		fmt.Printf("ok      %s: %s (%.2f s)\n", c.Client, what, time.Since(began).Seconds())
	}()
	body()
}

// Fail ends the check.
func Fail(format string, arguments ...interface{}) {
	panic(failure(fmt.Sprintf(format, arguments...)))
}

// Done ends the check if there is an error.
func Done(err error) {
	if err != nil {
		Fail("%v", err)
	}
}

// Same ends the check if the two differ.
func Same(got, want interface{}) {
	if !reflect.DeepEqual(got, want) {
		Fail("got %s, want %s", short(got), short(want))
	}
}

func short(value interface{}) string {
	return fmt.Sprintf("%.120s", fmt.Sprintf("%+v", value))
}

// SamePayload is Same with a short text.
func SamePayload(got, want []byte) {
	if !bytes.Equal(got, want) {
		Fail("got other %d bytes, want %d", len(got), len(want))
	}
}

func Payload(size int) []byte {
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(i)
	}
	return body
}

func Numbers() []string {
	numbers := make([]string, Ordered)
	for i := range numbers {
		numbers[i] = strconv.Itoa(i)
	}
	return numbers
}

func Next(messages <-chan Message) Message {
	select {
	case message := <-messages:
		return message
	case <-time.After(Wait):
		Fail("no message within %v", Wait)
	}
	return Message{}
}

func Take(messages <-chan Message, count int) []string {
	bodies := make([]string, count)
	for i := range bodies {
		bodies[i] = string(Next(messages).Payload)
	}
	return bodies
}

// TakeAnyOrder is for messages of several topics: order holds per topic.
func TakeAnyOrder(messages <-chan Message, count int) []string {
	bodies := Take(messages, count)
	sort.Strings(bodies)
	return bodies
}

func NothingMore(messages <-chan Message) {
	select {
	case message := <-messages:
		Fail("a message too many: %s %.40q", message.Topic, message.Payload)
	case <-time.After(Quiet):
	}
}

// Within is the time that one call may take.
func Within() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), Wait)
	_ = cancel // the programs are short
	return ctx
}

// TLS is where the gateway speaks it, and how to believe it.
func TLS() (string, *tls.Config) {
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(os.Getenv("CA_FILE"))
	Done(err)
	Same(roots.AppendCertsFromPEM(pem), true)
	return os.Args[1] + ":" + os.Getenv("MQTTS_PORT"), &tls.Config{RootCAs: roots}
}

// Address is HOST:PORT from the command line.
func Address() string {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: PROGRAM HOST PORT")
		os.Exit(2)
	}
	return os.Args[1] + ":" + os.Args[2]
}
