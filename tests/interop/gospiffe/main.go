// A workload that is not ours: go-spiffe, told by lines of JSON what to do.
//
// One command a line, {"do": name, ...arguments}; one answer a line, {"is": value} or {"error": {kind, text, code}}. The commands are
// the first six of ../pyspiffe_driver.py. The endpoint comes from SPIFFE_ENDPOINT_SOCKET.
package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/status"
)

const patience = 10 * time.Second

type command struct {
	Do           string
	Patience     float64
	TrustDomains []string `json:"trust_domains"`
	Authorize    string
	Port         int
}

type svid struct {
	ID    string   `json:"spiffe_id"`
	Chain [][]byte `json:"chain"` // encoding/json writes []byte as base64
}

type material struct {
	SVIDs   []svid              `json:"svids"`
	Bundles map[string][][]byte `json:"bundles"`
}

type driver struct {
	source *workloadapi.X509Source
	made   chan error
}

func main() {
	d := &driver{}
	lines := bufio.NewScanner(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var c command
		err := json.Unmarshal(lines.Bytes(), &c)
		var is any
		if err == nil {
			is, err = d.perform(c)
		}
		if err == nil {
			_ = answers.Encode(map[string]any{"is": is})
		} else {
			refusal := map[string]any{"kind": fmt.Sprintf("%T", err), "text": err.Error(), "code": status.Code(err)}
			_ = answers.Encode(map[string]any{"error": refusal})
		}
	}
}

func (d *driver) perform(c command) (any, error) {
	switch c.Do {
	case "fetch":
		return fetch()
	case "open":
		d.made = make(chan error, 1)
		go d.open()
		return nil, nil
	case "opened":
		return d.opened(c.Patience)
	case "held":
		return d.held(c.TrustDomains)
	case "listen":
		return d.listen(c.Authorize)
	case "dial":
		return d.dial(c.Port, c.Authorize)
	}
	return nil, fmt.Errorf("no command %q", c.Do)
}

func fetch() (*material, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	found, err := workloadapi.FetchX509Context(ctx)
	if err != nil {
		return nil, err
	}
	return show(found.SVIDs, found.Bundles.Bundles()), nil
}

func (d *driver) open() {
	source, err := workloadapi.NewX509Source(context.Background())
	d.source = source
	d.made <- err
}

func (d *driver) opened(seconds float64) (bool, error) {
	select {
	case err := <-d.made:
		return err == nil, err
	case <-time.After(time.Duration(seconds * float64(time.Second))):
		return false, nil
	}
}

func (d *driver) held(trustDomains []string) (*material, error) {
	current, err := d.source.GetX509SVID()
	if err != nil {
		return nil, err
	}
	var bundles []*x509bundle.Bundle
	for _, name := range trustDomains {
		if bundle, err := d.source.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString(name)); err == nil {
			bundles = append(bundles, bundle)
		}
	}
	return show([]*x509svid.SVID{current}, bundles), nil
}

func (d *driver) listen(authorize string) (int, error) {
	mode := spiffetls.MTLSServerWithSource(only(authorize), d.source)
	listener, err := spiffetls.ListenWithMode(context.Background(), "tcp", "127.0.0.1:0", mode)
	if err != nil {
		return 0, err
	}
	go accept(listener)
	return listener.Addr().(*net.TCPAddr).Port, nil
}

func accept(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		go answer(connection)
	}
}

func answer(connection net.Conn) {
	defer connection.Close()
	heard, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		return // the handshake failed, and the client knows
	}
	if peer, err := spiffetls.PeerIDFromConn(connection); err == nil {
		fmt.Fprintf(connection, "%s said %s", peer, strings.TrimSpace(heard))
	}
}

func (d *driver) dial(port int, authorize string) (string, error) {
	mode := spiffetls.MTLSClientWithSource(only(authorize), d.source)
	connection, err := spiffetls.DialWithMode(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", port), mode)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	if _, err := fmt.Fprintln(connection, "hello"); err != nil {
		return "", err
	}
	heard, err := io.ReadAll(connection)
	if err == nil && len(heard) == 0 {
		err = errors.New("no answer")
	}
	return string(heard), err
}

func only(id string) tlsconfig.Authorizer {
	return tlsconfig.AuthorizeID(spiffeid.RequireFromString(id))
}

func show(svids []*x509svid.SVID, bundles []*x509bundle.Bundle) *material {
	shown := &material{Bundles: map[string][][]byte{}}
	for _, each := range svids {
		shown.SVIDs = append(shown.SVIDs, svid{ID: each.ID.String(), Chain: raw(each.Certificates)})
	}
	for _, each := range bundles {
		shown.Bundles[each.TrustDomain().Name()] = raw(each.X509Authorities())
	}
	return shown
}

func raw(certificates []*x509.Certificate) (ders [][]byte) {
	for _, each := range certificates {
		ders = append(ders, each.Raw)
	}
	return ders
}
