//! What is remembered of executors and frameworks that have ended, so that tools can show them and find their files.

use std::collections::VecDeque;

use crate::view::{ExecutorView, FrameworkView};

/// How many of each are remembered. Mesos keeps as many frameworks.
const FRAMEWORKS: usize = 50;
const EXECUTORS: usize = 1000;

/// Oldest first.
#[derive(Debug, Default)]
pub(crate) struct Past {
    frameworks: VecDeque<FrameworkView>,
    executors: VecDeque<ExecutorView>,
}

impl Past {
    /// A framework may come and go: only its last going is remembered.
    pub(crate) fn framework_ended(&mut self, ended: FrameworkView) {
        self.frameworks
            .retain(|past| past.framework != ended.framework);
        if self.frameworks.len() == FRAMEWORKS {
            self.frameworks.pop_front();
        }
        self.frameworks.push_back(ended);
    }

    pub(crate) fn executor_ended(&mut self, ended: ExecutorView) {
        if self.executors.len() == EXECUTORS {
            self.executors.pop_front();
        }
        self.executors.push_back(ended);
    }

    pub(crate) fn frameworks(&self) -> impl Iterator<Item = &FrameworkView> {
        self.frameworks.iter()
    }

    pub(crate) fn executors(&self) -> impl Iterator<Item = &ExecutorView> {
        self.executors.iter()
    }
}
