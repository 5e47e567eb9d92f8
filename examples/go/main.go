// A service that asks latchkey about each request. needs and what it calls are to be copied; the rest shows its use.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const deadline = time.Second

var (
	authorize = cmp.Or(os.Getenv("LATCHKEY_URL"), "http://127.0.0.1:8080") + "/v1/authorize"
	ownKey    = os.Getenv("LATCHKEY_KEY") // where latchkey has `grpc.callers = "key"`
)

type decision struct {
	Allowed         bool
	HTTPStatus      int
	WWWAuthenticate string
	AccountID       string
	KeyID           string
}

type decisionKey struct{}

// needs lets a request through whose key holds the scope, and hands over whose key it is in the context.
func needs(scope string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		address, _, _ := net.SplitHostPort(r.RemoteAddr)
		decided, err := decide(r.Context(), map[string]string{
			"token": keyOf(r.Header), "requiredScope": scope, "clientAddress": address,
		})
		switch {
		case err != nil:
			log.Print("latchkey does not decide: ", err)
			http.Error(w, "try again", http.StatusServiceUnavailable)
		case !decided.Allowed:
			if decided.WWWAuthenticate != "" {
				w.Header().Set("WWW-Authenticate", decided.WWWAuthenticate)
			}
			http.Error(w, http.StatusText(decided.HTTPStatus), decided.HTTPStatus)
		default:
			next(w, r.WithContext(context.WithValue(r.Context(), decisionKey{}, decided)))
		}
	}
}

// decide brings the decision, within the deadline. Only what UNAVAILABLE is, 503 or no answer, is asked once more.
func decide(ctx context.Context, question map[string]string) (decided *decision, err error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	body, _ := json.Marshal(question)
	for range 2 {
		var again bool
		if decided, again, err = ask(ctx, body); !again {
			break
		}
	}
	return decided, err
}

func ask(ctx context.Context, body []byte) (*decision, bool, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, authorize, bytes.NewReader(body))
	if err != nil {
		return nil, false, err
	}
	if ownKey != "" {
		request.Header.Set("Authorization", "Bearer "+ownKey)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, true, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, true, err
	}
	if answer.StatusCode != http.StatusOK {
		unavailable := answer.StatusCode == http.StatusServiceUnavailable
		return nil, unavailable, fmt.Errorf("it says %d, %s", answer.StatusCode, text)
	}
	decided := new(decision)
	if err := json.Unmarshal(text, decided); err != nil || decided.HTTPStatus == 0 {
		return nil, false, fmt.Errorf("it says %.100q, which is no decision", text)
	}
	return decided, false, nil
}

// keyOf finds the one key of a request. None is an empty one, and two are none that latchkey knows: it is left to say so.
func keyOf(header http.Header) string {
	var keys []string
	for _, value := range header.Values("Authorization") {
		if len(value) > 7 && strings.EqualFold(value[:7], "bearer ") {
			keys = append(keys, value[7:])
		} else {
			keys = append(keys, "?")
		}
	}
	token := strings.Join(append(keys, header.Values("X-Api-Key")...), " ")
	return token[:min(len(token), 200)]
}

func main() {
	whose := func(w http.ResponseWriter, r *http.Request) {
		key := r.Context().Value(decisionKey{}).(*decision)
		json.NewEncoder(w).Encode(map[string]string{"account": key.AccountID, "key": key.KeyID})
	}
	http.HandleFunc("GET /memories", needs("memory:read", whose))
	http.HandleFunc("POST /memories", needs("memory:write", whose))
	log.Fatal(http.ListenAndServe("127.0.0.1:"+cmp.Or(os.Getenv("PORT"), "8000"), nil))
}
