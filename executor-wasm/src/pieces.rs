//! Host functions of WASI that last, and hold memory of the host, as long as the guest likes: here they are done in pieces,
//! so that neighbours come in between and one buffer is never large. What a guest reads and writes is counted on the way.

use tokio::task::yield_now;
use wasmtime::component::{self, Resource};
use wasmtime::{Caller, Extern, Linker, Memory, StoreContextMut};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as p1, WasiSnapshotPreview1 as _};
use wasmtime_wasi::p2::StreamResult;
use wasmtime_wasi::p2::bindings::random::{insecure, random};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};
use wasmtime_wasi::random::WasiRandomView as _;
use wasmtime_wasi_io::bindings::wasi::io::streams::{self, Host as _};
use wiggle::GuestMemory;

use crate::store::State;

/// Most bytes of one read or write of a module: the host holds a copy of them, which is nobody's memory.
const TRANSFER_BYTES: u32 = 256 << 10;
/// Buffers of one read or write that are looked at; it uses the first that has a length.
const BUFFERS: u32 = 1_024;
/// What WASI's functions may copy in one call, in bytes; more than any of these.
const HOST_FUEL: usize = 1 << 20;
/// Random bytes made without a pause.
const RANDOM_BYTES: u32 = 64 << 10;
/// More in one call is refused, as WASI's own function does.
const RANDOM_MOST: u64 = 64 << 20;
/// `errno::fault`.
const FAULT: i32 = 21;

/// A read or write of a module, with what only some have.
#[derive(Clone, Copy)]
enum Transfer {
    Read,
    ReadAt(i64),
    Write,
    WriteAt(i64),
}

/// Replaces these functions of preview 1 in a linker that allows it.
pub(crate) fn link(linker: &mut Linker<State>, world: &str) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        world,
        "random_get",
        |mut caller: Caller<'_, State>, (at, bytes): (u32, u32)| {
            Box::new(async move { fill_with_random(&mut caller, at, bytes).await })
        },
    )?;
    for (name, transfer) in [("fd_read", Transfer::Read), ("fd_write", Transfer::Write)] {
        linker.func_wrap_async(
            world,
            name,
            move |mut caller: Caller<'_, State>, (fd, list, count, moved): (i32, i32, i32, i32)| {
                Box::new(
                    async move { carry_out(&mut caller, transfer, fd, (list, count), moved).await },
                )
            },
        )?;
    }
    for (name, at) in [
        ("fd_pread", Transfer::ReadAt as fn(i64) -> Transfer),
        ("fd_pwrite", Transfer::WriteAt),
    ] {
        linker.func_wrap_async(
            world,
            name,
            move |mut caller: Caller<'_, State>,
                  (fd, list, count, offset, moved): (i32, i32, i32, i64, i32)| {
                Box::new(async move {
                    carry_out(&mut caller, at(offset), fd, (list, count), moved).await
                })
            },
        )?;
    }
    Ok(())
}

fn memory(caller: &mut Caller<'_, State>) -> wasmtime::Result<Memory> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory),
        _ => wasmtime::bail!("the module exports no memory named `memory`, which WASI calls need"),
    }
}

async fn fill_with_random(
    caller: &mut Caller<'_, State>,
    at: u32,
    bytes: u32,
) -> wasmtime::Result<i32> {
    let memory = memory(caller)?;
    let (mut at, end) = (u64::from(at), u64::from(at) + u64::from(bytes));
    if end > memory.data_size(&*caller) as u64 {
        return Ok(FAULT);
    }
    while at < end {
        let length = (end - at).min(u64::from(RANDOM_BYTES));
        let piece = random::Host::get_random_bytes(caller.data_mut().random(), length)?;
        memory.write(&mut *caller, usize::try_from(at)?, &piece)?;
        at += length;
        if at < end {
            yield_now().await;
        }
    }
    Ok(0)
}

/// The list is of pairs of an address and a length.
async fn carry_out(
    caller: &mut Caller<'_, State>,
    transfer: Transfer,
    fd: i32,
    (list, count): (i32, i32),
    moved: i32,
) -> wasmtime::Result<i32> {
    let memory = memory(caller)?;
    let count = count.cast_unsigned().min(BUFFERS).cast_signed();
    let (bytes, state) = memory.data_and_store_mut(caller);
    let shortened = shorten(bytes, list, count);
    let called = {
        let wasi = state.wasi();
        wasi.set_hostcall_fuel(HOST_FUEL);
        let guest = &mut GuestMemory::Unshared(&mut *bytes);
        match transfer {
            Transfer::Read => p1::fd_read(wasi, guest, fd, list, count, moved).await,
            Transfer::ReadAt(offset) => {
                p1::fd_pread(wasi, guest, fd, list, count, offset, moved).await
            }
            Transfer::Write => p1::fd_write(wasi, guest, fd, list, count, moved).await,
            Transfer::WriteAt(offset) => {
                p1::fd_pwrite(wasi, guest, fd, list, count, offset, moved).await
            }
        }
    };
    // The guest's own list is as it was.
    if let Some((at, length)) = shortened
        && let Some(place) = word(bytes, at)
    {
        place.copy_from_slice(&length.to_le_bytes());
    }
    if let Ok(0) = called
        && let Some(place) = word(bytes, moved.cast_unsigned())
    {
        let moved = u64::from(u32::from_le_bytes(*place));
        match transfer {
            Transfer::Read | Transfer::ReadAt(_) => state.meter().count_read(moved),
            Transfer::Write | Transfer::WriteAt(_) => state.meter().count_written(moved),
        }
    }
    called
}

/// Writes a smaller length into the list if the one that counts is large; where it was, and what it was.
fn shorten(bytes: &mut [u8], list: i32, count: i32) -> Option<(u32, u32)> {
    for number in 0..count.cast_unsigned() {
        let at = list
            .cast_unsigned()
            .checked_add(number.checked_mul(8)?)?
            .checked_add(4)?;
        let place = word(bytes, at)?;
        let length = u32::from_le_bytes(*place);
        if length == 0 {
            continue;
        }
        if length <= TRANSFER_BYTES {
            return None;
        }
        // What does not lie in the memory is refused as it is.
        let from = u32::from_le_bytes(*word(bytes, at - 4)?);
        if u64::from(from) + u64::from(length) > bytes.len() as u64 {
            return None;
        }
        word(bytes, at)?.copy_from_slice(&TRANSFER_BYTES.to_le_bytes());
        return Some((at, length));
    }
    None
}

fn word(bytes: &mut [u8], at: u32) -> Option<&mut [u8; 4]> {
    bytes
        .get_mut(usize::try_from(at).ok()?..)?
        .first_chunk_mut()
}

/// Replaces these functions of WASI 0.2 in a linker that allows it.
pub(crate) fn link_components(linker: &mut component::Linker<State>) -> wasmtime::Result<()> {
    let mut of_random = linker.instance("wasi:random/random@0.2.12")?;
    of_random.func_wrap_async(
        "get-random-bytes",
        |store: StoreContextMut<'_, State>, (length,): (u64,)| {
            Box::new(random_list(store, length, |state, length| {
                random::Host::get_random_bytes(state.random(), length)
            }))
        },
    )?;
    let mut of_insecure = linker.instance("wasi:random/insecure@0.2.12")?;
    of_insecure.func_wrap_async(
        "get-insecure-random-bytes",
        |store: StoreContextMut<'_, State>, (length,): (u64,)| {
            Box::new(random_list(store, length, |state, length| {
                insecure::Host::get_insecure_random_bytes(state.random(), length)
            }))
        },
    )?;
    let mut of_streams = linker.instance("wasi:io/streams@0.2.12")?;
    of_streams.func_wrap(
        "[method]input-stream.read",
        |mut store: StoreContextMut<'_, State>,
         (stream, length): (Resource<DynInputStream>, u64)| {
            let table = store.data_mut().ctx().table;
            let got = streams::HostInputStream::read(table, stream, length);
            got_back(store.data_mut(), got)
        },
    )?;
    of_streams.func_wrap_async(
        "[method]input-stream.blocking-read",
        |mut store: StoreContextMut<'_, State>,
         (stream, length): (Resource<DynInputStream>, u64)| {
            Box::new(async move {
                let table = store.data_mut().ctx().table;
                let got = streams::HostInputStream::blocking_read(table, stream, length).await;
                got_back(store.data_mut(), got)
            })
        },
    )?;
    of_streams.func_wrap(
        "[method]output-stream.write",
        |mut store: StoreContextMut<'_, State>,
         (stream, bytes): (Resource<DynOutputStream>, Vec<u8>)| {
            let length = bytes.len() as u64;
            let table = store.data_mut().ctx().table;
            let written = streams::HostOutputStream::write(table, stream, bytes);
            taken(store.data_mut(), length, written)
        },
    )?;
    of_streams.func_wrap_async(
        "[method]output-stream.blocking-write-and-flush",
        |mut store: StoreContextMut<'_, State>,
         (stream, bytes): (Resource<DynOutputStream>, Vec<u8>)| {
            Box::new(async move {
                let length = bytes.len() as u64;
                let table = store.data_mut().ctx().table;
                let written =
                    streams::HostOutputStream::blocking_write_and_flush(table, stream, bytes).await;
                taken(store.data_mut(), length, written)
            })
        },
    )?;
    Ok(())
}

async fn random_list(
    mut store: StoreContextMut<'_, State>,
    length: u64,
    make: impl Fn(&mut State, u64) -> wasmtime::Result<Vec<u8>> + Send,
) -> wasmtime::Result<(Vec<u8>,)> {
    if length > RANDOM_MOST {
        wasmtime::bail!("{length} random bytes at once are more than {RANDOM_MOST}");
    }
    // The host holds them all before the guest has any. If this is given up, the store goes and what it holds with it.
    store.data_mut().limits().borrow(length)?;
    let mut list = Vec::with_capacity(usize::try_from(length)?);
    while (list.len() as u64) < length {
        let piece = (length - list.len() as u64).min(u64::from(RANDOM_BYTES));
        list.extend(make(store.data_mut(), piece)?);
        yield_now().await;
    }
    store.data_mut().limits().give_back(length);
    Ok((list,))
}

type Told<T> = wasmtime::Result<(Result<T, streams::StreamError>,)>;

fn got_back(state: &mut State, got: StreamResult<Vec<u8>>) -> Told<Vec<u8>> {
    match got {
        Ok(bytes) => {
            state.meter().count_read(bytes.len() as u64);
            Ok((Ok(bytes),))
        }
        Err(error) => Ok((Err(state.ctx().table.convert_stream_error(error)?),)),
    }
}

fn taken(state: &mut State, length: u64, written: StreamResult<()>) -> Told<()> {
    match written {
        Ok(()) => {
            state.meter().count_written(length);
            Ok((Ok(()),))
        }
        Err(error) => Ok((Err(state.ctx().table.convert_stream_error(error)?),)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_length_that_counts_is_shortened() {
        let mut bytes = vec![0; 1 << 20];
        let set = |bytes: &mut [u8], at: u32, value: u32| {
            word(bytes, at)
                .expect("inside")
                .copy_from_slice(&value.to_le_bytes());
        };
        let get = |bytes: &mut [u8], at| u32::from_le_bytes(*word(bytes, at).expect("inside"));
        // Two entries: the first is empty.
        set(&mut bytes, 0, 64);
        set(&mut bytes, 8, 64);
        set(&mut bytes, 12, 1_000_000);
        assert_eq!(shorten(&mut bytes, 0, 2), Some((12, 1_000_000)));
        assert_eq!(get(&mut bytes, 12), TRANSFER_BYTES);
        assert_eq!(shorten(&mut bytes, 0, 2), None, "it is small enough now");
        set(&mut bytes, 12, 1 << 20);
        assert_eq!(
            shorten(&mut bytes, 0, 2),
            None,
            "it does not lie in the memory"
        );
        assert_eq!(shorten(&mut bytes, 0, 1), None);
        for (list, count) in [(-4, 1), (i32::MAX, i32::MAX), (0, -1), ((1 << 20) - 2, 1)] {
            assert_eq!(shorten(&mut vec![0; 1 << 20], list, count), None);
        }
    }
}
