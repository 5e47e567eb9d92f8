//! A server that is told to stop says so at once, and answers for a while yet: whoever sends it calls has time to notice.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus::NotServing;
use tonic_health::pb::health_client::HealthClient;

use super::client::{Client, is_goaway};
use super::program::Program;

const IN_TIME: Duration = Duration::from_secs(5);
/// Of a notice of two seconds, which begins a moment before we know.
const JUST_BEFORE_ITS_END: Duration = Duration::from_millis(1_900);
/// Nobody waits for its end.
const LONG: &str = "600";

fn start(notice_seconds: &str) -> Program {
    Program::start(&[
        ("SERVE__NOTICE_SECONDS", notice_seconds),
        ("OPERATIONS__LISTEN", "127.0.0.1:0"),
    ])
}

/// The status of an answer over a connection of its own.
async fn status(address: SocketAddr, path: &str) -> Result<u16, Box<dyn Error>> {
    let mut stream = TcpStream::connect(address).await?;
    let question = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.split(' ').nth(1).ok_or("no answer")?.parse()?)
}

async fn says_that_it_is_not_ready(program: &Program) {
    let says_so = async {
        while status(program.operations(), "/readyz").await.unwrap() != 503 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(IN_TIME, says_so).await.expect("it says that it is not ready");
}

/// What is answered to a call, and to both probes, each over a new connection.
async fn probes_beside_a_call(program: &Program) -> Result<[u16; 2], Box<dyn Error>> {
    Client::try_connect(program.grpc()).await?.call().await?;
    let operations = program.operations();
    Ok([status(operations, "/livez").await?, status(operations, "/readyz").await?])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_says_so_and_takes_new_connections_until_its_notice_is_over() {
    let mut program = start("2");
    let mut early = Client::connect(program.grpc()).await;
    assert_eq!(early.call().await, Ok(()));
    assert_eq!(probes_beside_a_call(&program).await.unwrap(), [200, 200]);

    let stopping = program.stop();
    says_that_it_is_not_ready(&program).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", program.grpc())).unwrap();
    let mut health = HealthClient::new(endpoint.connect().await.unwrap());
    let told = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(told.status(), NotServing);
    let (mut answered, mut refused_after) = (0, None);
    let goaway = loop {
        match early.try_begin_call().await {
            Ok(call) => assert_eq!(call.finish().await, Ok(())),
            Err(goaway) => break goaway,
        }
        match probes_beside_a_call(&program).await {
            Ok(probes) => assert_eq!(probes, [200, 503], "alive, and not ready"),
            Err(_) => {
                refused_after.get_or_insert_with(|| stopping.elapsed());
            }
        }
        answered += 1;
        sleep(Duration::from_millis(20)).await;
    };
    assert!(is_goaway(&goaway), "{goaway}");
    let ended_after = refused_after.unwrap_or_else(|| stopping.elapsed());
    assert!(answered > 0 && ended_after > JUST_BEFORE_ITS_END, "{answered} in {ended_after:?}");
    program.refuses_connections().await;
    early.closed().await;
    assert!(program.exited(IN_TIME).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_notice_and_no_call() {
    let mut program = start(LONG);
    let mut client = Client::connect(program.grpc()).await;
    let call = client.begin_stream().await;
    program.stop();
    says_that_it_is_not_ready(&program).await;
    assert_eq!(client.call().await, Ok(()));
    program.stop();
    program.refuses_connections().await;
    assert_eq!(call.finish().await, Ok(()));
    client.closed().await;
    assert!(program.exited(IN_TIME).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ends_it_at_a_terminal_does_not_wait_for_gateways_to_notice() {
    let mut program = start(LONG);
    program.signal(Signal::INT);
    assert!(program.exited(IN_TIME).await);
}
