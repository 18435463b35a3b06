//! What is read of a connection to the API server, and when.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

async fn pair(asked: &Asked) -> (Paced, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    far.set_nodelay(true).unwrap();
    (Paced::new(near, asked.clone()), far)
}

/// Reads `count` bytes; yields in how many pieces they came.
async fn pieces(near: &mut Paced, count: usize) -> usize {
    let (mut buffer, mut came, mut pieces) = (vec![0; 1 << 20], 0, 0);
    while came < count {
        let read = near.read(&mut buffer).await.unwrap();
        assert!(read > 0, "it ended after {came} of {count} bytes");
        (came, pieces) = (came + read, pieces + 1);
    }
    pieces
}

/// Sends `count` bytes, one each millisecond.
async fn drip(far: &mut TcpStream, count: usize) {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    for _ in 0..count {
        tick.tick().await;
        far.write_all(b"x").await.unwrap();
    }
}

#[tokio::test]
async fn what_comes_piece_by_piece_is_read_together() {
    let asked = Asked::default();
    let (mut near, mut far) = pair(&asked).await;
    let began = Instant::now();
    let (read, ()) = tokio::join!(pieces(&mut near, 200), drip(&mut far, 200));
    let most = began.elapsed().as_millis() / PAUSE.as_millis() + 2;
    assert!(read as u128 <= most, "{read} pieces, {most} at the most");
}

#[tokio::test]
async fn who_waits_for_an_answer_is_not_kept_waiting() {
    let asked = Asked::default();
    let (mut near, mut far) = pair(&asked).await;
    let asking = asked.begin();
    // One that has come when a request was already sent, and is followed by nothing.
    let began = Instant::now();
    for _ in 0..100 {
        far.write_all(b"x").await.unwrap();
        assert_eq!(pieces(&mut near, 1).await, 1);
    }
    assert!(began.elapsed() < 50 * PAUSE, "{:?}: they were paused for", began.elapsed());
    drop(asking);
    // One that is sent in a pause ends it.
    let mut waited = Duration::ZERO;
    for _ in 0..20 {
        far.write_all(b"x").await.unwrap();
        assert_eq!(pieces(&mut near, 1).await, 1);
        let waits = std::future::poll_fn(|cx| {
            let (mut bytes, mut near) = ([0; 8], Pin::new(&mut near));
            Poll::Ready(near.as_mut().poll_read(cx, &mut ReadBuf::new(&mut bytes)).is_pending())
        });
        assert!(waits.await && near.paused);
        let (_asking, began) = (asked.begin(), Instant::now());
        near.write_all(b"?").await.unwrap();
        assert!(!near.paused);
        far.write_all(b"!").await.unwrap();
        assert_eq!(pieces(&mut near, 1).await, 1);
        waited += began.elapsed();
    }
    assert!(waited < 10 * PAUSE, "{waited:?}: they were paused for");
}

#[tokio::test]
async fn much_ends_a_pause_and_so_does_the_end() {
    let asked = Asked::default();
    let (mut near, mut far) = pair(&asked).await;
    far.write_all(b"x").await.unwrap();
    pieces(&mut near, 1).await;
    let whole = 64 << 20;
    let began = Instant::now();
    let send = async { far.write_all(&vec![7; whole]).await.unwrap() };
    let (read, ()) = tokio::join!(pieces(&mut near, whole), send);
    let pauses = began.elapsed().as_millis() / PAUSE.as_millis();
    assert!(read >= 64 && pauses < 100, "{read} pieces in {pauses} pauses");
    drop(far);
    assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
}
