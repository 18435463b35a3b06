//! The socket with its real client: who may use it, what is passed on, how it is handed over.

use std::os::unix::fs::FileTypeExt;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::admin::{Client, ClientError, Status, Transition};

struct Fixture {
    dir: TempDir,
    requests: mpsc::Receiver<AdminRequest>,
    server: Server,
    client: Client,
}

fn levels() -> LevelHandle {
    LevelHandle::detached("info")
}

fn start_for(user: u32) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/admin.sock");
    let (send, requests) = mpsc::channel(1);
    let server = Server::start(&ServerSettings { path: path.clone(), user }, send, levels()).unwrap();
    Fixture { client: Client::new(&path), dir, requests, server }
}

fn own_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

#[tokio::test]
async fn questions_reach_the_agent_and_answers_the_client() {
    let mut f = start_for(own_user());
    let agent = async {
        match f.requests.recv().await.unwrap() {
            AdminRequest::Status(reply) => reply.send(Ok(Status { node: "n1".into(), ..Status::default() })).unwrap(),
            other => panic!("{other:?}"),
        }
        match f.requests.recv().await.unwrap() {
            AdminRequest::Disable(reply) => reply.send(Err("a hand-over is under way".into())).unwrap(),
            other => panic!("{other:?}"),
        }
        drop(f.requests.recv().await.unwrap());
    };
    let client = async {
        assert_eq!(f.client.get::<Status>("/status").await.unwrap().node, "n1");
        let refused = f.client.post::<Transition>("/disable").await.unwrap_err();
        assert!(matches!(&refused, ClientError::Refused(why) if why == "a hand-over is under way"), "{refused:?}");
        let dropped = f.client.get::<serde_json::Value>("/dump").await.unwrap_err();
        assert!(matches!(&dropped, ClientError::Refused(why) if why.contains("stopping")), "{dropped:?}");
        let unknown = f.client.get::<Status>("/secrets").await.unwrap_err();
        assert!(matches!(unknown, ClientError::Refused(_)));
    };
    tokio::join!(agent, client);
}

#[tokio::test]
async fn the_log_filter_is_shown_and_changed() {
    let f = start_for(own_user());
    assert_eq!(f.client.get::<LogLevel>("/log-level").await.unwrap().filter, "info");
    let wanted = LogLevel { filter: "debug".into() };
    assert_eq!(f.client.put::<LogLevel>("/log-level", &wanted).await.unwrap(), wanted);
    assert_eq!(f.client.get::<LogLevel>("/log-level").await.unwrap(), wanted);
    let wrong = f.client.put::<LogLevel>("/log-level", &LogLevel { filter: "weft=loud".into() }).await.unwrap_err();
    assert!(wrong.to_string().contains("target=level"), "{wrong}");
    let not_json = f.client.put::<LogLevel>("/log-level", &"debug").await.unwrap_err();
    assert!(not_json.to_string().contains("filter"), "{not_json}");
}

#[tokio::test]
async fn nobody_but_the_one_user_is_answered() {
    // To this server we are somebody else.
    let mut f = start_for(own_user() + 1);
    let path = f.dir.path().join("run/admin.sock");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let _ = stream.write_all(b"GET /status HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(answer, b"");
    assert!(f.requests.try_recv().is_err(), "it reached the agent");
}

#[tokio::test]
async fn root_is_meant_by_default() {
    assert_eq!(ServerSettings::for_root("/x".into()).user, 0);
}

#[tokio::test]
async fn an_answer_in_flight_is_let_out_before_the_socket_closes() {
    let mut f = start_for(own_user());
    let Fixture { server, client, dir, .. } = f;
    let agent = async {
        let Some(AdminRequest::Handover(reply)) = f.requests.recv().await else { panic!("another request") };
        reply.send(Ok(Transition { done: "handed over".into() })).unwrap();
        server.close().await;
    };
    let (answer, ()) = tokio::join!(client.post::<Transition>("/handover"), agent);
    assert_eq!(answer.unwrap().done, "handed over");
    assert!(!dir.path().join("run/admin.sock").exists());
    let absent = client.get::<Status>("/status").await.unwrap_err();
    assert!(absent.is_absent() && absent.to_string().contains("is it running"), "{absent}");
}

#[tokio::test]
async fn a_successor_takes_the_place_and_the_predecessor_leaves_it_alone() {
    let f = start_for(own_user());
    let path = f.dir.path().join("run/admin.sock");
    let (send, mut requests) = mpsc::channel(1);
    let successor = Server::start(&ServerSettings { path: path.clone(), user: own_user() }, send, levels()).unwrap();
    f.server.close().await;
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
    let agent = async {
        let Some(AdminRequest::Status(reply)) = requests.recv().await else { panic!("another request") };
        reply.send(Ok(Status { node: "second".into(), ..Status::default() })).unwrap();
    };
    let (answer, ()) = tokio::join!(f.client.get::<Status>("/status"), agent);
    assert_eq!(answer.unwrap().node, "second");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside the socket");
    drop(successor);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_a_killed_agent_left_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let (send, _requests) = mpsc::channel(1);
    Server::start(&ServerSettings { path, user: own_user() }, send, levels()).unwrap();
}

#[tokio::test]
async fn a_place_that_cannot_be_is_explained() {
    let (send, _requests) = mpsc::channel(1);
    let path = PathBuf::from("/proc/nowhere/admin.sock");
    let error = Server::start(&ServerSettings::for_root(path), send, levels()).unwrap_err().to_string();
    assert!(error.contains("/proc/nowhere/admin.sock") && error.contains("--admin-socket"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_never_answers_is_given_up_on() {
    let mut f = start_for(own_user());
    let path = f.dir.path().join("run/admin.sock");
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(b"GET /status HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let held = f.requests.recv().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    drop(held);
}
