//! The gRPC client in Python, on stubs that grpcio-tools makes from `proto/`.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::front::{Front, Instead};
use super::service::{example, python, repository, spawn, succeed};
use super::{IN_TIME, UNKNOWN};
use crate::process::{make_account, make_key};
use crate::support::{Folder, Server, eventually, tools_path};

struct Client {
    child: Child,
    keys: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _folder: Folder,
}

impl Client {
    /// Makes the stubs and starts it.
    fn start(asks: SocketAddr, scope: &str, own_key: Option<&str>) -> Self {
        let folder = Folder::new();
        let mut protoc = Command::new(python());
        protoc.args(["-m", "grpc_tools.protoc", "-I", "proto", "--python_out"]).arg(folder.path());
        protoc.arg("--grpc_python_out").arg(folder.path());
        for proto in ["authorization", "common"] {
            protoc.arg(format!("latchkey/v1/{proto}.proto"));
        }
        succeed(protoc.current_dir(repository()));
        let script = folder.path().join("client.py");
        std::fs::copy(example("grpc-python/client.py"), &script).unwrap();
        let mut command = Command::new(python());
        command.arg(script).arg(scope).env_clear().env("PATH", tools_path());
        command.env("LATCHKEY_TARGET", asks.to_string());
        command.envs(own_key.map(|key| ("LATCHKEY_KEY", key)));
        let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let keys = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, keys, answers, _folder: folder }
    }

    fn ask(&mut self, key: &str) -> String {
        writeln!(self.keys, "{key}").unwrap();
        self.answers.next().unwrap().unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_python_client_reads_decisions() {
    let server = Server::start_dev().await;
    let mut reader = Client::start(server.grpc(), "memory:read", None);
    let answer = reader.ask(&server.live_key());
    assert!(answer.starts_with("200 demo key_"), "{answer}");
    for key in ["", UNKNOWN, "nonsense"] {
        assert_eq!(reader.ask(key).trim(), "401", "{key}");
    }
    let mut writer = Client::start(server.grpc(), "memory:write", None);
    assert!(writer.ask(&server.live_key()).starts_with("403 demo key_"));
    let mut mistaken = Client::start(server.grpc(), "memory:reed", None);
    let answer = mistaken.ask(&server.live_key());
    assert!(answer.starts_with("503 INVALID_ARGUMENT "), "{answer}");
}

#[tokio::test]
async fn the_python_client_is_closed_while_latchkey_is_down() {
    let mut server = Server::start().await;
    let root = server.root_token();
    make_account(&server, &root, "acme").await;
    let key = make_key(&server, &root, "acme").await.unwrap().token;
    let mut client = Client::start(server.grpc(), "memory:read", None);
    assert!(client.ask(&key).starts_with("200 acme key_"));
    let address = server.grpc().to_string();
    server.pause().await;
    let hung = client.ask(&key);
    assert!(hung.starts_with("503 DEADLINE_EXCEEDED"), "{hung}");
    server.resume();
    server.kill().await;
    let down = client.ask(&key);
    assert!(down.starts_with("503 UNAVAILABLE"), "{down}");
    let _server = server.again().listen("grpc", &address).start().await;
    eventually(IN_TIME, "a 200", || client.ask(&key).starts_with("200").then_some(())).await;
}

#[tokio::test]
async fn the_python_client_asks_once_more_when_latchkey_is_unavailable() {
    use Instead::{Broken, Unavailable};
    let server = Server::start_dev().await;
    let front = Front::start(server.grpc()).await;
    let key = server.live_key();
    let mut client = Client::start(front.address, "memory:read", None);
    for (instead, wanted, asked) in [
        (&[][..], "200 demo", 1),
        (&[Unavailable], "200 demo", 2),
        (&[Unavailable, Unavailable, Unavailable], "503 UNAVAILABLE", 2),
        (&[Broken], "503 INTERNAL", 1),
    ] {
        front.answer_next(instead);
        front.asked();
        let key = key.clone();
        // On another thread, so that what is in front can answer meanwhile.
        let asking = tokio::task::spawn_blocking(move || (client.ask(&key), client));
        let (answer, again) = asking.await.unwrap();
        client = again;
        assert!(answer.starts_with(wanted), "{instead:?}: {answer}");
        assert_eq!(front.asked(), asked, "{instead:?}");
    }
}
