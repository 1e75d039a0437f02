//! A worker without a guest. The function's handler says how it starts, the event what it does with it.

use std::fs;
use std::io::stdin;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use serde_bytes::ByteBuf;
use worker_protocol::{
    Answer, Attached, Booted, Channel, Ending, Failure, FailureKind, FromWorker, Health, Invoke, LogStream,
    Received, Record, Restored, Sender, SnapshotPoint, Snapshotted, Timeline, ToWorker, Usage, WorkerChannel,
};

/// The limit of the first attempt to initialise.
const INIT_LIMIT: Duration = Duration::from_secs(10);

struct Worker {
    node: Sender<FromWorker>,
    behaviour: String,
    init_limit: Duration,
    invocations: u32,
    recorded: bool,
    /// A start has failed: nothing can be invoked.
    failed: bool,
    /// A restore waits for its invocation.
    held: bool,
}

pub fn serve() {
    let Channel { sender, mut receiver } = WorkerChannel::new(stdin().as_fd().try_clone_to_owned().unwrap());
    let (behaviour, init_limit) = (String::new(), Duration::ZERO);
    let mut worker = Worker {
        node: sender,
        behaviour,
        init_limit,
        invocations: 0,
        recorded: false,
        failed: false,
        held: false,
    };
    worker.say(FromWorker::Ready);
    while let Ok(Some(Received { message, mut descriptors })) = receiver.receive() {
        match message {
            ToWorker::Configure(configuration) => {
                let handler = configuration.environment.iter().find(|(name, _)| *name == b"_HANDLER");
                worker.behaviour = String::from_utf8(handler.unwrap().1.to_vec()).unwrap();
                worker.init_limit = configuration.limits.init_timeout;
            }
            ToWorker::Boot { .. } => worker.boot(),
            ToWorker::Restore(request) => {
                worker.recorded = request.record != Record::No;
                worker.restore();
            }
            ToWorker::Invoke(invoke) => worker.invoke(&invoke),
            ToWorker::Snapshot { into } => {
                let folder = descriptors.take(into).unwrap();
                let path = format!("/proc/self/fd/{}/snapshot", folder.as_raw_fd());
                fs::create_dir(path).unwrap();
                worker.say(FromWorker::Snapshotted(Snapshotted { memory: 0, duration: Duration::ZERO }));
            }
            ToWorker::Stop => return,
            ToWorker::Signal { .. } => {}
            ToWorker::MakeMemoryReady { .. } => worker.say(FromWorker::MemoryReady),
        }
    }
}

impl Worker {
    fn say(&mut self, message: FromWorker) {
        // A node that is gone ends the loop at the next receive.
        let _ = self.node.send(&message, Attached::default());
    }

    fn log(&mut self, stream: LogStream, text: String) {
        self.say(FromWorker::Log { stream, bytes: ByteBuf::from(text.into_bytes()) });
    }

    fn fail(&mut self, kind: FailureKind) {
        self.failed = true;
        let message = "as it was told".to_owned();
        self.say(FromWorker::Failed(Failure { kind, message, health: Health::Discard }));
    }

    fn boot(&mut self) {
        match self.behaviour.as_str() {
            "slow-boot" => {
                self.log(LogStream::Output, "RAN boot\n".to_owned());
                std::thread::sleep(Duration::from_millis(400));
            }
            "die-at-boot" => {
                self.log(LogStream::Output, "RAN boot\n".to_owned());
                std::process::exit(1);
            }
            _ => {}
        }
        let fails = match self.behaviour.as_str() {
            "init-error" => true,
            "init-error-once" => self.init_limit == INIT_LIMIT,
            _ => false,
        };
        if fails {
            self.log(LogStream::Output, "RAN init\n".to_owned());
            let payload = ByteBuf::from(br#"{"errorType":"Boom"}"#.to_vec());
            return self.fail(FailureKind::Init { error_type: "Runtime.Boom".to_owned(), payload });
        }
        let point = Some(SnapshotPoint::InvocationNext);
        let duration = Duration::from_millis(1);
        self.say(FromWorker::Booted(Booted { point, duration, timeline: timeline() }));
    }

    fn restore(&mut self) {
        match self.behaviour.as_str() {
            "snapshot-damaged" => self.fail(FailureKind::Snapshot),
            "hook-error" => {
                let error_type = "Runtime.AfterRestoreError".to_owned();
                self.fail(FailureKind::Restore { error_type, payload: ByteBuf::from(b"{}".to_vec()) });
            }
            "restored-by-the-invocation" if !self.held => self.held = true,
            _ => {
                let duration = Duration::from_millis(1);
                let warnings = Vec::new();
                let hooks = Duration::ZERO;
                self.say(FromWorker::Restored(Restored { duration, hooks, warnings, timeline: timeline() }));
            }
        }
    }

    fn invoke(&mut self, invoke: &Invoke) {
        if self.failed {
            return self.fail(FailureKind::Request);
        }
        if self.held {
            self.restore();
            self.held = false;
        }
        self.invocations += 1;
        let event = String::from_utf8(invoke.payload.to_vec()).unwrap();
        let dies = match event.as_str() {
            "die-before-start" => true,
            "die-before-start-once" => self.invocations > 1,
            _ => false,
        };
        if dies {
            std::process::exit(1);
        }
        self.log(LogStream::Platform, format!("START RequestId: {} Version: $LATEST\n", invoke.request_id));
        self.log(LogStream::Output, format!("RAN {event}\n"));
        let (what, number) = event.split_once(':').unwrap_or((&event, "0"));
        let number: u64 = number.parse().unwrap();
        match what {
            "die-after-start" => std::process::exit(1),
            "sleep" => std::thread::sleep(Duration::from_millis(number)),
            "stream" => return self.stream(invoke, number),
            "time-out" => return self.answer(invoke, Ending::TimedOut, b"{}", Health::Discard),
            _ => {}
        }
        let health = if self.recorded { Health::Discard } else { Health::Ready };
        self.answer(invoke, Ending::Response, b"\"done\"", health);
        if what == "answer-then-die" {
            std::process::exit(1);
        }
    }

    fn stream(&mut self, invoke: &Invoke, pieces: u64) {
        let request_id = invoke.request_id.clone();
        let content_type = Some("text/plain".to_owned());
        self.say(FromWorker::AnswerStarted { request_id, content_type });
        for number in 0..pieces {
            let bytes = ByteBuf::from(format!("piece {number}\n").into_bytes());
            self.say(FromWorker::AnswerPiece { request_id: invoke.request_id.clone(), bytes });
        }
        self.answer(invoke, Ending::Response, b"", Health::Ready);
    }

    fn answer(&mut self, invoke: &Invoke, ending: Ending, payload: &[u8], health: Health) {
        self.say(FromWorker::Answered(Box::new(Answer {
            request_id: invoke.request_id.clone(),
            ending,
            payload: ByteBuf::from(payload.to_vec()),
            content_type: None,
            usage: Usage { duration: Duration::from_millis(1), max_memory: 1 << 20 },
            health,
            timeline: timeline(),
        })));
    }
}

fn timeline() -> Timeline {
    Timeline(ByteBuf::from(postcard::to_stdvec(&restore::Timeline::start()).unwrap()))
}
