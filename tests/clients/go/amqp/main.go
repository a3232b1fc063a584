// SPDX-License-Identifier: Apache-2.0

// Azure's Go client for AMQP 1.0: amqp HOST PORT. The gateway makes queues on demand.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"

	amqp "github.com/Azure/go-amqp"

	. "polylog.test/clients/checks"
)

type session struct{ *amqp.Session }

func (s session) send(address string, messages ...*amqp.Message) {
	sender, err := s.NewSender(Within(), address, nil)
	Done(err)
	for _, message := range messages {
		Done(sender.Send(Within(), message, nil))
	}
	Done(sender.Close(Within()))
}

func (s session) receiver(address string, options *amqp.ReceiverOptions) *amqp.Receiver {
	receiver, err := s.NewReceiver(Within(), address, options)
	Done(err)
	return receiver
}

func next(receiver *amqp.Receiver) *amqp.Message {
	message, err := receiver.Receive(Within(), nil)
	Done(err)
	return message
}

func (s session) take(address string, count int) []string {
	receiver := s.receiver(address, &amqp.ReceiverOptions{Credit: 50})
	var bodies []string
	for len(bodies) < count {
		message := next(receiver)
		bodies = append(bodies, string(message.GetData()))
		Done(receiver.AcceptMessage(Within(), message))
	}
	Done(receiver.Close(Within()))
	return bodies
}

func run() int {
	check := Checks{Client: "go-amqp"}
	var connection *amqp.Conn
	var s session

	check.Check("connect", func() {
		var err error
		connection, err = amqp.Dial(Within(), "amqp://"+Address(),
			&amqp.ConnOptions{SASLType: amqp.SASLTypeAnonymous()})
		Done(err)
		s.Session, err = connection.NewSession(Within(), nil)
		Done(err)
	})
	if check.Failed > 0 {
		return check.Failed
	}

	check.Check(fmt.Sprintf("%d messages in order, each once", Ordered), func() {
		var messages []*amqp.Message
		for _, number := range Numbers() {
			messages = append(messages, amqp.NewMessage([]byte(number)))
		}
		s.send("go.order", messages...)
		Same(s.take("go.order", Ordered), Numbers())
	})

	check.Check("1 MiB", func() {
		s.send("go.large", amqp.NewMessage(Payload(1<<20)))
		SamePayload([]byte(s.take("go.large", 1)[0]), Payload(1<<20))
	})

	check.Check("properties and types", func() {
		id, subject := "id", "s"
		s.send("go.types", &amqp.Message{
			Properties:            &amqp.MessageProperties{MessageID: id, Subject: &subject},
			ApplicationProperties: map[string]interface{}{"n": int32(-5), "yes": true, "text": "ä"},
			Value:                 map[string]interface{}{"list": []interface{}{int64(1), "two", nil}},
		})
		receiver := s.receiver("go.types", nil)
		message := next(receiver)
		Same(message.Properties.MessageID, id)
		Same(*message.Properties.Subject, subject)
		Same(message.ApplicationProperties, map[string]interface{}{"n": int32(-5), "yes": true, "text": "ä"})
		Same(message.Value, map[string]interface{}{"list": []interface{}{int64(1), "two", nil}})
		Done(receiver.AcceptMessage(Within(), message))
		Done(receiver.Close(Within()))
	})

	check.Check("released, modified and rejected; settled by the second side", func() {
		s.send("go.outcomes", amqp.NewMessage([]byte("x")))
		receiver := s.receiver("go.outcomes",
			&amqp.ReceiverOptions{SettlementMode: amqp.ReceiverSettleModeSecond.Ptr()})
		Done(receiver.ReleaseMessage(Within(), next(receiver)))
		Done(receiver.ModifyMessage(Within(), next(receiver), &amqp.ModifyMessageOptions{DeliveryFailed: true}))
		message := next(receiver)
		Same(message.Header.DeliveryCount, uint32(1))
		Done(receiver.RejectMessage(Within(), message, nil))
		Done(receiver.Close(Within()))
	})

	check.Check("a batch: its messages one by one, or none of them", func() {
		var inside, numbers [][]byte
		for i := 0; i < 100; i++ {
			numbers = append(numbers, []byte(fmt.Sprint(i)))
			encoded, err := (&amqp.Message{Data: numbers[i : i+1], Properties: &amqp.MessageProperties{MessageID: uint64(i)},
				Annotations: amqp.Annotations{"x-opt-partition-key": "k"}}).MarshalBinary()
			Done(err)
			inside = append(inside, encoded)
		}
		const format = 0x80013700
		s.send("go.batch", &amqp.Message{Format: format, Data: inside})
		receiver := s.receiver("go.batch", &amqp.ReceiverOptions{Credit: 100})
		for i, number := range numbers {
			message := next(receiver)
			Same(message.Format, uint32(0))
			Same(string(message.GetData()), string(number))
			Same(message.Properties.MessageID, uint64(i))
			Same(message.Annotations["x-opt-partition-key"], "k")
			Done(receiver.AcceptMessage(Within(), message))
		}
		Done(receiver.Close(Within()))
		sender, err := s.NewSender(Within(), "go.batch", nil)
		Done(err)
		err = sender.Send(Within(), &amqp.Message{Format: format, Data: append(inside, []byte("no message"))}, nil)
		var refused *amqp.Error
		if !errors.As(err, &refused) || refused.Condition != amqp.ErrCondDecodeError {
			Fail(fmt.Sprint("not refused: ", err))
		}
		Done(sender.Send(Within(), &amqp.Message{Format: format, Data: inside[7:8]}, nil))
		Done(sender.Close(Within()))
		Same(s.take("go.batch", 1), []string{"7"})
	})

	check.Check("a selector", func() {
		for _, color := range []string{"red", "blue"} {
			s.send("go.selector", &amqp.Message{Data: [][]byte{[]byte(color)},
				ApplicationProperties: map[string]interface{}{"color": color}})
		}
		receiver := s.receiver("go.selector",
			&amqp.ReceiverOptions{Filters: []amqp.LinkFilter{amqp.NewSelectorFilter("color = 'blue'")}})
		message := next(receiver)
		Same(string(message.GetData()), "blue")
		Done(receiver.AcceptMessage(Within(), message))
		Done(receiver.Close(Within()))
	})

	check.Check("credit by hand, one at a time", func() {
		s.send("go.credit", amqp.NewMessage([]byte("1")), amqp.NewMessage([]byte("2")))
		receiver := s.receiver("go.credit", &amqp.ReceiverOptions{Credit: -1})
		for _, wanted := range []string{"1", "2"} {
			if receiver.Prefetched() != nil {
				Fail("a message without credit")
			}
			Done(receiver.IssueCredit(1))
			message := next(receiver)
			Same(string(message.GetData()), wanted)
			Done(receiver.AcceptMessage(Within(), message))
		}
		Done(receiver.Close(Within()))
	})

	check.Check("a durable subscription outlives its connection", func() {
		options := &amqp.ReceiverOptions{Name: "news", SourceDurability: amqp.DurabilityUnsettledState,
			SourceExpiryPolicy: amqp.ExpiryPolicyNever}
		for _, wanted := range []string{"1", "2"} {
			own, err := amqp.Dial(Within(), "amqp://"+Address(), &amqp.ConnOptions{ContainerID: "go-durable",
				SASLType: amqp.SASLTypeAnonymous()})
			Done(err)
			ownSession, err := own.NewSession(Within(), nil)
			Done(err)
			receiver := session{ownSession}.receiver("/topics/go/durable", options)
			if wanted == "1" {
				s.send("/topics/go/durable", amqp.NewMessage([]byte("1")), amqp.NewMessage([]byte("2")))
			}
			message := next(receiver)
			Same(string(message.GetData()), wanted)
			Done(receiver.AcceptMessage(Within(), message))
			if wanted == "2" { // a link that is closed gives it up
				Done(receiver.Close(Within()))
			}
			Done(own.Close())
		}
	})

	check.Check("a request and its reply through a dynamic node", func() {
		replies := s.receiver("", &amqp.ReceiverOptions{DynamicAddress: true})
		to := replies.Address()
		s.send("go.requests", &amqp.Message{Data: [][]byte{[]byte("1 + 1")},
			Properties: &amqp.MessageProperties{ReplyTo: &to, CorrelationID: uint64(7)}})
		service := s.receiver("go.requests", nil)
		request := next(service)
		Done(service.AcceptMessage(Within(), request))
		s.send(*request.Properties.ReplyTo, &amqp.Message{Data: [][]byte{[]byte("2")},
			Properties: &amqp.MessageProperties{CorrelationID: request.Properties.CorrelationID}})
		reply := next(replies)
		Same(string(reply.GetData()), "2")
		Same(reply.Properties.CorrelationID, uint64(7))
		Done(replies.AcceptMessage(Within(), reply))
		Done(replies.Close(Within()))
		Done(service.Close(Within()))
	})

	check.Check("an address that leads nowhere", func() {
		_, err := s.NewSender(Within(), "/nowhere/at/all", nil)
		if err == nil {
			Fail("a sender to nowhere")
		}
	})

	check.Check("close", func() { Done(connection.Close()) })
	return check.Failed
}

func main() {
	if _, err := net.ResolveTCPAddr("tcp", Address()); err != nil || run() > 0 {
		os.Exit(1)
	}
}
