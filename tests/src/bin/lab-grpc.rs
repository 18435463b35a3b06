//! A gRPC server and client of tonic, over hyper: what people use in Rust.
//!
//! The client judges what it gets, says `ok` and ends well, or says what was wrong and does not. It knows nothing of the mesh.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{self, BoxStream, StreamExt};
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::client;
use tonic::server;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

/// The only message there is.
#[derive(Clone, PartialEq, prost::Message)]
struct Note {
    #[prost(bytes = "vec", tag = "1")]
    body: Vec<u8>,
    #[prost(uint64, tag = "2")]
    number: u64,
}

type Codec = ProstCodec<Note, Note>;
type Notes = BoxStream<'static, Result<Note, Status>>;

#[derive(Parser)]
struct Arguments {
    /// Serve here.
    #[arg(long, conflicts_with = "connect")]
    listen: Option<SocketAddr>,
    /// Or call this.
    #[arg(long)]
    connect: Option<SocketAddr>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match (arguments.listen, arguments.connect) {
        (Some(address), _) => {
            let listener = TcpListener::bind(address).await.context("listening")?;
            println!("listening");
            loop {
                let (stream, _) = listener.accept().await?;
                let service =
                    hyper::service::service_fn(|request: http::Request<Incoming>| Lab.call(request.map(Body::new)));
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
            }
        }
        (None, Some(to)) => {
            call(to).await?;
            println!("ok");
            Ok(())
        }
        (None, None) => bail!("--listen or --connect"),
    }
}

/// The service `lab.Real`.
#[derive(Clone)]
struct Lab;

impl Service<http::Request<Body>> for Lab {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = server::Grpc::new(Codec::default()).max_decoding_message_size(16 << 20);
            Ok(match request.uri().path() {
                "/lab.Real/Unary" => grpc.unary(service_fn(unary), request).await,
                "/lab.Real/Fail" => grpc.unary(service_fn(fail), request).await,
                "/lab.Real/Slow" => grpc.unary(service_fn(slow), request).await,
                "/lab.Real/Count" => grpc.server_streaming(service_fn(count), request).await,
                "/lab.Real/Sum" => grpc.client_streaming(service_fn(sum), request).await,
                "/lab.Real/Chat" => grpc.streaming(service_fn(chat), request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

async fn unary(request: Request<Note>) -> Result<Response<Note>, Status> {
    let sent = request.metadata().get("x-sent").cloned();
    let mut response = Response::new(request.into_inner());
    if let Some(sent) = sent {
        response.metadata_mut().insert("x-seen", sent);
    }
    Ok(response)
}

async fn fail(_: Request<Note>) -> Result<Response<Note>, Status> {
    Err(Status::failed_precondition("as asked: 50 % \u{e9}"))
}

async fn slow(request: Request<Note>) -> Result<Response<Note>, Status> {
    tokio::time::sleep(Duration::from_secs(20)).await;
    Ok(Response::new(request.into_inner()))
}

async fn count(request: Request<Note>) -> Result<Response<Notes>, Status> {
    let all = request.into_inner().number;
    let notes = stream::iter(0..all).map(|number| Ok(Note { body: vec![7; 1000], number }));
    Ok(Response::new(notes.boxed()))
}

async fn sum(request: Request<Streaming<Note>>) -> Result<Response<Note>, Status> {
    let (mut notes, mut number) = (request.into_inner(), 0);
    while let Some(note) = notes.message().await? {
        number += note.number;
    }
    Ok(Response::new(Note { body: Vec::new(), number }))
}

async fn chat(request: Request<Streaming<Note>>) -> Result<Response<Notes>, Status> {
    let answers = request.into_inner().map(|note| note.map(|note| Note { number: note.number + 1, ..note }));
    Ok(Response::new(answers.boxed()))
}

/// A connection, as tonic wants one.
#[derive(Clone)]
struct Channel {
    sender: hyper::client::conn::http2::SendRequest<Body>,
    origin: http::Uri,
}

impl Channel {
    async fn connect(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, origin: format!("http://{to}").parse()? })
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, hyper::Result<http::Response<Incoming>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut sender = self.sender.clone();
        Box::pin(async move { sender.send_request(request).await })
    }
}

fn path(method: &str) -> Result<PathAndQuery> {
    Ok(format!("/lab.Real/{method}").parse()?)
}

async fn ready(channel: &Channel) -> Result<client::Grpc<Channel>> {
    let grpc = client::Grpc::with_origin(channel.clone(), channel.origin.clone());
    let mut grpc = grpc.max_decoding_message_size(16 << 20);
    grpc.ready().await.context("the channel is not ready")?;
    Ok(grpc)
}

async fn ask(channel: &Channel, method: &str, note: Note) -> Result<std::result::Result<Response<Note>, Status>> {
    let mut request = Request::new(note);
    request.metadata_mut().insert("x-sent", "a word".parse()?);
    Ok(ready(channel).await?.unary(request, path(method)?, Codec::default()).await)
}

async fn call(to: SocketAddr) -> Result<()> {
    let channel = Channel::connect(to).await.context("connecting")?;
    let note = Note { body: vec![42; 1 << 20], number: 1 };
    let answer = ask(&channel, "Unary", note.clone()).await??;
    ensure!(answer.metadata().get("x-seen").is_some_and(|seen| seen == "a word"), "{:?}", answer.metadata());
    ensure!(answer.into_inner() == note, "not what was sent");
    // Many side by side, in one connection.
    let many = join_all((0..50).map(|number| ask(&channel, "Unary", Note { body: Vec::new(), number }))).await;
    for (number, answer) in many.into_iter().enumerate() {
        ensure!(answer??.into_inner().number == number as u64, "call {number} was answered as another");
    }
    let failed = ask(&channel, "Fail", Note::default()).await?.err().context("it did not fail")?;
    ensure!((failed.code(), failed.message()) == (Code::FailedPrecondition, "as asked: 50 % \u{e9}"), "{failed:?}");
    let unknown = ask(&channel, "None", Note::default()).await?.err().context("there is no such method")?;
    ensure!(unknown.code() == Code::Unimplemented, "{unknown:?}");
    // One that is given up leaves the others alone.
    let late = tokio::time::timeout(Duration::from_millis(300), ask(&channel, "Slow", Note::default())).await;
    ensure!(late.is_err(), "it was in time: {late:?}");
    streams(&channel).await
}

async fn streams(channel: &Channel) -> Result<()> {
    let request = Request::new(Note { body: Vec::new(), number: 500 });
    let counted = ready(channel).await?.server_streaming(request, path("Count")?, Codec::default()).await?;
    let (mut counted, mut seen) = (counted.into_inner(), 0);
    while let Some(note) = counted.message().await? {
        ensure!(note.number == seen && note.body.len() == 1000, "note {seen} is {}", note.number);
        seen += 1;
    }
    ensure!(seen == 500, "{seen} notes");
    let notes = stream::iter((1..=100).map(|number| Note { body: vec![0; 5000], number }));
    let sum = ready(channel).await?.client_streaming(Request::new(notes), path("Sum")?, Codec::default()).await?;
    ensure!(sum.get_ref().number == 5050, "{sum:?}");
    // Each word is said only when the one before has been answered.
    let (say, said) = mpsc::channel(1);
    let words = stream::unfold(said, |mut said| async move { said.recv().await.map(|word| (word, said)) });
    say.send(Note { body: Vec::new(), number: 0 }).await?;
    let answers = ready(channel).await?.streaming(Request::new(words), path("Chat")?, Codec::default()).await?;
    let mut answers = answers.into_inner();
    for number in 0..50 {
        let answer = answers.message().await?.context("the chat ended")?;
        ensure!(answer.number == number + 1, "word {number} was answered by {}", answer.number);
        say.send(Note { body: Vec::new(), number: number + 1 }).await?;
    }
    drop(say);
    ensure!(answers.message().await?.is_some() && answers.message().await?.is_none(), "the chat did not end");
    Ok(())
}
