//! The polls of guests, charged to the share of their task.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::shares::Share;

/// Whatever runs a guest must be inside one. Host calls that were given to another thread are not counted.
pub(crate) struct Timed<F> {
    guest: Pin<Box<F>>,
    share: Arc<Share>,
}

impl<F> Timed<F> {
    pub(crate) fn new(guest: F, share: Arc<Share>) -> Self {
        Self {
            guest: Box::pin(guest),
            share,
        }
    }
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        this.share.poll(|| this.guest.as_mut().poll(context))
    }
}
