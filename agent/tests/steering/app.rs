//! An application: a Python process that runs what a test tells it to. Python, because the tests do to sockets what no
//! Rust library has a word for, and because it is not our code.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};
use weft::sys::NetNs;

/// Runs statements; the value of a last expression is the answer, an OSError's errno is one too.
const INTERPRETER: &str = r#"
import ast, json, sys, os, socket, struct, ctypes, errno, time
libc = ctypes.CDLL(None, use_errno=True)
SO_MARK = 36
def dial(host, port, **options):
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_STREAM, options.get('protocol', 0))
    s.settimeout(options.get('timeout', 5))
    for level, name, value in options.get('set', []):
        s.setsockopt(level, name, value)
    s.connect((host, port))
    return s
def disconnect(s):
    if libc.connect(s.fileno(), struct.pack('H14x', socket.AF_UNSPEC), 16):
        raise OSError(ctypes.get_errno(), 'connect(AF_UNSPEC)')
def mark(s):
    return s.getsockopt(socket.SOL_SOCKET, SO_MARK)
def listen(host, port):
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((host, port))
    s.listen(1024)
    s.settimeout(5)
    return s
for line in sys.stdin:
    tree = ast.parse(json.loads(line))
    value = None
    try:
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, 'test', 'exec'), globals())
        if last:
            value = eval(compile(ast.Expression(last.value), 'test', 'eval'), globals())
        answer = {'ok': value}
    except TimeoutError:
        answer = {'errno': errno.ETIMEDOUT}
    except OSError as error:
        answer = {'errno': error.errno}
    except Exception as error:
        answer = {'broken': repr(error)}
    print(json.dumps(answer), flush=True)
"#;

/// A running application; killed when dropped.
pub(crate) struct App {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl App {
    pub(crate) fn start(ns: &NetNs, group: &Path) -> Self {
        let mut process = ns
            .run(|| {
                Command::new("python3")
                    .args(["-u", "-c", INTERPRETER])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
            })
            .unwrap()
            .expect("python3 is installed");
        fs::write(group.join("cgroup.procs"), process.id().to_string()).unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, input, output }
    }

    /// Runs code; the value of its last expression, or the errno it failed with.
    pub(crate) fn run(&mut self, code: &str) -> Result<Value, i32> {
        writeln!(self.input, "{}", json!(code)).unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let mut answer: Value = serde_json::from_str(&line).expect("an answer");
        if let Some(errno) = answer.get("errno") {
            return Err(errno.as_i64().unwrap_or(-1) as i32);
        }
        assert!(answer.get("broken").is_none(), "{code}: {answer}");
        Ok(answer["ok"].take())
    }

    /// Runs code that must succeed.
    pub(crate) fn ok(&mut self, code: &str) -> Value {
        self.run(code).unwrap_or_else(|errno| panic!("{code}: {}", std::io::Error::from_raw_os_error(errno)))
    }

    /// Runs code that may be the last the application does.
    pub(crate) fn last(&mut self, code: &str) {
        writeln!(self.input, "{}", json!(code)).unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
    }

    /// Dials, keeping the socket as `s`.
    pub(crate) fn dial(&mut self, to: SocketAddr) -> Result<Value, i32> {
        self.run(&format!("s = dial('{}', {})", to.ip(), to.port()))
    }

    /// The address of the other end of `s`, as the application sees it.
    pub(crate) fn peer(&mut self) -> SocketAddr {
        let peer = self.ok("s.getpeername()[:2]");
        SocketAddr::new(peer[0].as_str().unwrap().parse().unwrap(), peer[1].as_u64().unwrap() as u16)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
