//! What lies on this agent's disk, gathered for the core: the caches as they fill and empty, and what was declared.

use std::collections::BTreeMap;
use std::time::Duration;

use tepui_agent_core::Input;
use tepui_api::ext::Holding;
use tepui_api::ext::holding::Kind;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::compile::Compiler;
use crate::owner::Event;
use crate::store::{Change, Store};
use tepui_fetch::is_digest;

/// What changes within this time is told together.
const GATHER: Duration = Duration::from_millis(100);

type Thing = (i32, String);

/// Follows both caches and whatever else is handed in, for as long as the agent runs.
pub(crate) fn follow(
    fetched: &Store,
    compiled: &Store,
    compiler: Compiler,
    events: mpsc::Sender<Event>,
) -> UnboundedSender<Holding> {
    let (fetches, fetch_changes) = mpsc::unbounded_channel();
    let (compiles, compile_changes) = mpsc::unbounded_channel();
    let (others, other_changes) = mpsc::unbounded_channel();
    fetched.follow(fetches);
    compiled.follow(compiles);
    let gatherer = Gatherer {
        fetches: fetch_changes,
        compiles: compile_changes,
        others: other_changes,
        compiler,
        files: BTreeMap::new(),
        changed: BTreeMap::new(),
        events,
    };
    tokio::spawn(gatherer.run());
    others
}

struct Gatherer {
    fetches: UnboundedReceiver<Change>,
    compiles: UnboundedReceiver<Change>,
    others: UnboundedReceiver<Holding>,
    compiler: Compiler,
    /// The compiled forms of each module: one counts fuel, one does not.
    files: BTreeMap<String, BTreeMap<String, u64>>,
    /// What is to be told: the thing as it is by now, or that it is gone.
    changed: BTreeMap<Thing, Option<Holding>>,
    events: mpsc::Sender<Event>,
}

impl Gatherer {
    async fn run(mut self) {
        loop {
            tokio::select! {
                Some(change) = self.fetches.recv() => self.on_fetched(change),
                Some(change) = self.compiles.recv() => self.on_compiled(change).await,
                Some(holding) = self.others.recv() => self.note(holding),
                else => return,
            }
            let until = tokio::time::Instant::now() + GATHER;
            loop {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(until) => break,
                    Some(change) = self.fetches.recv() => self.on_fetched(change),
                    Some(change) = self.compiles.recv() => self.on_compiled(change).await,
                    Some(holding) = self.others.recv() => self.note(holding),
                }
            }
            if !self.tell().await {
                return;
            }
        }
    }

    fn note(&mut self, holding: Holding) {
        let thing = (holding.kind, holding.name.clone());
        self.changed.insert(thing, Some(holding));
    }

    fn on_fetched(&mut self, change: Change) {
        match change {
            // Whatever else lies there has no digest that others could ask for.
            Change::Kept { name, bytes } if is_digest(&name) => {
                self.note(holding(Kind::Artifact, name, bytes));
            }
            Change::Gone { name } => {
                self.changed.insert((Kind::Artifact.into(), name), None);
            }
            Change::Kept { .. } => {}
        }
    }

    async fn on_compiled(&mut self, change: Change) {
        let (file, bytes) = match change {
            Change::Kept { name, bytes } => (name, Some(bytes)),
            Change::Gone { name } => (name, None),
        };
        let Some(module) = self.compiler.module_of(&file).await.map(str::to_owned) else {
            return;
        };
        let forms = self.files.entry(module.clone()).or_default();
        match bytes {
            Some(bytes) => forms.insert(file, bytes),
            None => forms.remove(&file),
        };
        let bytes = forms.values().sum();
        if forms.is_empty() {
            self.files.remove(&module);
            self.changed.insert((Kind::Compiled.into(), module), None);
        } else {
            self.note(holding(Kind::Compiled, module, bytes));
        }
    }

    /// Whether there is somebody left to tell.
    async fn tell(&mut self) -> bool {
        let (mut held, mut gone) = (Vec::new(), Vec::new());
        for ((kind, name), holding) in std::mem::take(&mut self.changed) {
            match holding {
                Some(holding) => held.push(holding),
                None => gone.push(Holding {
                    kind,
                    name,
                    ..Holding::default()
                }),
            }
        }
        if held.is_empty() && gone.is_empty() {
            return true;
        }
        let input = Input::Held { held, gone };
        self.events.send(Event::Core(Box::new(input))).await.is_ok()
    }
}

fn holding(kind: Kind, name: String, bytes: u64) -> Holding {
    Holding {
        kind: kind.into(),
        name,
        bytes: Some(bytes),
        roles: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use super::*;
    use crate::compile::CompileLimits;

    fn put(store: &Store, name: &str, bytes: usize) {
        let mut file = store.unfinished().unwrap();
        file.write_all(&vec![b'x'; bytes]).unwrap();
        drop(store.keep(file, name, 0o400).unwrap());
    }

    /// A compiler that knows its keys and nothing else.
    fn compiler(folder: &Path, store: Store) -> Compiler {
        use std::os::unix::fs::PermissionsExt;
        let program = folder.join("program");
        let text = "#!/bin/sh\necho '{\"plain\":\"p1\",\"metered\":\"m1\"}'\n";
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let limits = CompileLimits {
            workers: 1,
            time: Duration::from_secs(60),
            memory_bytes: 1 << 30,
            module_bytes: 1000,
            quick_above_bytes: 1 << 20,
            shut_in: false,
        };
        Compiler::new(program, store, limits)
    }

    async fn told(inbox: &mut mpsc::Receiver<Event>) -> (Vec<Holding>, Vec<Holding>) {
        match inbox.recv().await {
            Some(Event::Core(input)) => match *input {
                Input::Held { held, gone } => (held, gone),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_comes_and_goes_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let fetched = Store::open(folder.path().join("fetch"), 250).unwrap();
        let compiled = Store::open(folder.path().join("compiled"), 1000).unwrap();
        let (first, second) = ("a".repeat(64), "b".repeat(64));
        put(&fetched, &first, 100);
        put(&compiled, &format!("{first}-p1.cwasm"), 10);
        put(&compiled, &format!("{first}-m1.cwasm"), 20);
        put(&compiled, &format!("{first}-old.cwasm"), 40);
        let (events, mut inbox) = mpsc::channel(10);
        let compiler = compiler(folder.path(), compiled.clone());
        let others = follow(&fetched, &compiled, compiler, events);
        // In as many pieces as it takes.
        let mut known = Vec::new();
        let artifact = holding(Kind::Artifact, first.clone(), 100);
        let code = holding(Kind::Compiled, first.clone(), 30);
        while !known.contains(&artifact) || !known.contains(&code) {
            let (held, gone) = told(&mut inbox).await;
            assert_eq!(gone, []);
            known.extend(held);
        }

        let set = holding(Kind::Dataset, "set".to_owned(), 7);
        others.send(set.clone()).unwrap();
        put(&fetched, &second, 200);
        let new = holding(Kind::Artifact, second, 200);
        let mut lost = Vec::new();
        while !known.contains(&new) || !known.contains(&set) || lost.is_empty() {
            let (held, gone) = told(&mut inbox).await;
            known.extend(held);
            lost.extend(gone);
        }
        assert_eq!((lost.len(), lost[0].name.as_str()), (1, first.as_str()));
    }
}
