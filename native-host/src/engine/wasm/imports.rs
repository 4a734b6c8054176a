//! What a guest that decides may call: clocks, randomness, and a place to say why it failed. All else traps: it is for the
//! component's other life at the edge.
//!
//! The functions are those that the component model lowers WASI's to (its Canonical ABI), so that what a module imports under
//! a component is defined here without one.

use std::time::SystemTime;

use wasmtime::{Caller, Engine, Error, Extern, ExternType, Linker, Memory, Module, Result};

use super::instance::Host;

/// How much of what a guest says is kept, in bytes.
const SAID: usize = 64 * 1024;

/// The most random bytes that are given at once.
const RANDOM: u64 = 64 * 1024;

/// The handle of the stream for errors; those of the others are smaller.
const STDERR: u32 = 2;

/// A list without members: its place, which has to be aligned, and its length.
const EMPTY: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, 0];

/// An option without a value, and a result that is none of an error, by their first bytes.
const NONE: u8 = 0;
const OK: u8 = 0;

/// Defines everything that the module imports.
pub(super) fn linker(engine: &Engine, module: &Module) -> Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    for import in module.imports() {
        let (interface, name) = (import.module(), import.name());
        let ExternType::Func(ty) = import.ty() else {
            return Err(Error::msg(format!("{interface}#{name} is imported, and no function")));
        };
        let version = interface.find('@').unwrap_or(interface.len());
        match (&interface[..version], name) {
            ("wasi:random/random", "get-random-u64") => linker.func_wrap(interface, name, rand::random::<u64>)?,
            ("wasi:random/random", "get-random-bytes") => linker.func_wrap(interface, name, random_bytes)?,
            ("wasi:random/insecure-seed", "insecure-seed") => linker.func_wrap(interface, name, seed)?,
            ("wasi:clocks/monotonic-clock", "now") => linker.func_wrap(interface, name, monotonic_clock)?,
            ("wasi:clocks/wall-clock", "now") => linker.func_wrap(interface, name, wall_clock)?,
            ("wasi:cli/environment", "get-environment") | ("wasi:filesystem/preopens", "get-directories") => {
                linker.func_wrap(interface, name, empty_list)?
            }
            ("wasi:cli/stdin", "get-stdin") | ("wasi:cli/stdout", "get-stdout") => {
                linker.func_wrap(interface, name, || STDERR - 1)?
            }
            ("wasi:cli/stderr", "get-stderr") => linker.func_wrap(interface, name, || STDERR)?,
            ("wasi:cli/terminal-stdin", "get-terminal-stdin")
            | ("wasi:cli/terminal-stdout", "get-terminal-stdout")
            | ("wasi:cli/terminal-stderr", "get-terminal-stderr") => linker.func_wrap(interface, name, no_terminal)?,
            ("wasi:io/streams", "[method]output-stream.check-write") => linker.func_wrap(interface, name, room)?,
            ("wasi:io/streams", "[method]output-stream.write") => linker.func_wrap(interface, name, said)?,
            ("wasi:io/streams", "[method]output-stream.blocking-flush") => linker.func_wrap(interface, name, flushed)?,
            ("$root", "[context-get-0]") => {
                linker.func_wrap(interface, name, |caller: Caller<'_, Host>| caller.data().context)?
            }
            ("$root", "[context-set-0]") => {
                linker.func_wrap(interface, name, |mut caller: Caller<'_, Host>, context: u32| {
                    caller.data_mut().context = context;
                })?
            }
            (_, _) if name.starts_with("[resource-drop]") => linker.func_wrap(interface, name, |_handle: u32| ())?,
            _ => {
                let called = format!("{interface}#{name}");
                linker.func_new(interface, name, ty, move |_, _, _| {
                    Err(Error::msg(format!("a decision may not call {called}")))
                })?
            }
        };
    }
    Ok(linker)
}

fn random_bytes(mut caller: Caller<'_, Host>, length: u64, result: u32) -> Result<()> {
    if length > RANDOM {
        return Err(Error::msg(format!(
            "{length} random bytes are wanted, and {RANDOM} are given at once"
        )));
    }
    let bytes: Vec<u8> = (0..length).map(|_| rand::random()).collect();
    let length = u32::try_from(length)?;
    let realloc = caller.get_export("cabi_realloc").and_then(Extern::into_func);
    let realloc = realloc.ok_or_else(|| Error::msg("the guest exports no cabi_realloc"))?;
    let realloc = realloc.typed::<(u32, u32, u32, u32), u32>(&caller)?;
    let at = realloc.call(&mut caller, (0, 0, 1, length))?;
    write(&mut caller, at, &bytes)?;
    let mut list = EMPTY;
    list[..4].copy_from_slice(&at.to_le_bytes());
    list[4..].copy_from_slice(&length.to_le_bytes());
    write(&mut caller, result, &list)
}

fn seed(mut caller: Caller<'_, Host>, result: u32) -> Result<()> {
    write(&mut caller, result, &rand::random::<[u8; 16]>())
}

fn monotonic_clock(caller: Caller<'_, Host>) -> u64 {
    u64::try_from(caller.data().began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn wall_clock(mut caller: Caller<'_, Host>, result: u32) -> Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut datetime = [0; 12];
    datetime[..8].copy_from_slice(&now.as_secs().to_le_bytes());
    datetime[8..].copy_from_slice(&now.subsec_nanos().to_le_bytes());
    write(&mut caller, result, &datetime)
}

fn empty_list(mut caller: Caller<'_, Host>, result: u32) -> Result<()> {
    write(&mut caller, result, &EMPTY)
}

fn no_terminal(mut caller: Caller<'_, Host>, result: u32) -> Result<()> {
    write(&mut caller, result, &[NONE])
}

fn room(mut caller: Caller<'_, Host>, _stream: u32, result: u32) -> Result<()> {
    let mut room = [OK; 16];
    room[8..].copy_from_slice(&(SAID as u64).to_le_bytes());
    write(&mut caller, result, &room)
}

/// Keeps what a guest writes to standard error: its panic's message, where it panics.
fn said(mut caller: Caller<'_, Host>, stream: u32, at: u32, length: u32, result: u32) -> Result<()> {
    if stream == STDERR {
        let (memory, host) = memory(&mut caller)?.data_and_store_mut(&mut caller);
        let words = memory.get(at as usize..).and_then(|rest| rest.get(..length as usize));
        let words = words.ok_or_else(|| Error::msg("the guest says something from outside of its memory"))?;
        let room = SAID.saturating_sub(host.said.len());
        host.said.extend_from_slice(&words[..words.len().min(room)]);
    }
    write(&mut caller, result, &[OK])
}

fn flushed(mut caller: Caller<'_, Host>, _stream: u32, result: u32) -> Result<()> {
    write(&mut caller, result, &[OK])
}

fn write(caller: &mut Caller<'_, Host>, at: u32, bytes: &[u8]) -> Result<()> {
    Ok(memory(caller)?.write(caller, at as usize, bytes)?)
}

fn memory(caller: &mut Caller<'_, Host>) -> Result<Memory> {
    let memory = caller.get_export("memory").and_then(Extern::into_memory);
    memory.ok_or_else(|| Error::msg("the guest exports no memory"))
}

#[cfg(test)]
mod tests {
    use wasmtime::{Store, TypedFunc};

    use super::*;

    /// A module that imports a function as `$it` and exports `run`, linked.
    fn guest(import: &str, run: &str) -> (Store<Host>, TypedFunc<(), ()>) {
        let text = format!(
            r#"(module
                (import {import})
                (memory (export "memory") 1)
                (data (i32.const 100) "words")
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 512))
                (func (export "run") {run}))"#
        );
        let engine = Engine::default();
        let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let mut store = Store::new(&engine, Host::new(1 << 20));
        let linked = linker(&engine, &module).unwrap();
        let instance = linked.instantiate(&mut store, &module).unwrap();
        let run = instance.get_typed_func(&mut store, "run").unwrap();
        (store, run)
    }

    const WRITE: &str = r#""wasi:io/streams@0.2.6" "[method]output-stream.write" (func $it (param i32 i32 i32 i32))"#;
    const RANDOM_BYTES: &str = r#""wasi:random/random@0.2.6" "get-random-bytes" (func $it (param i64 i32))"#;

    #[test]
    fn last_words_are_kept_as_far_as_there_is_room() {
        let (mut store, run) = guest(WRITE, "(call $it (i32.const 2) (i32.const 100) (i32.const 5) (i32.const 0))");
        run.call(&mut store, ()).unwrap();
        run.call(&mut store, ()).unwrap();
        assert_eq!(store.data().said, b"wordswords");
        store.data_mut().said = vec![b' '; SAID - 2];
        run.call(&mut store, ()).unwrap();
        assert_eq!(store.data().said.len(), SAID);
        assert!(store.data().said.ends_with(b" wo"));
    }

    #[test]
    fn standard_output_goes_nowhere() {
        let (mut store, run) = guest(WRITE, "(call $it (i32.const 1) (i32.const 100) (i32.const 5) (i32.const 0))");
        run.call(&mut store, ()).unwrap();
        assert!(store.data().said.is_empty());
    }

    #[test]
    fn a_place_outside_of_the_guests_memory_is_its_fault() {
        let words = "(call $it (i32.const 2) (i32.const 65530) (i32.const 7) (i32.const 0))";
        let (mut store, run) = guest(WRITE, words);
        assert!(run.call(&mut store, ()).is_err());
        let result = "(call $it (i32.const 2) (i32.const 100) (i32.const 5) (i32.const -1))";
        let (mut store, run) = guest(WRITE, result);
        assert!(run.call(&mut store, ()).is_err());
    }

    #[test]
    fn random_bytes_are_given_where_the_guest_has_room_for_them_and_not_without_end() {
        let (mut store, run) = guest(
            RANDOM_BYTES,
            "(call $it (i64.const 32) (i32.const 8))
             (if (i32.ne (i32.load (i32.const 8)) (i32.const 512)) (then unreachable))
             (if (i32.ne (i32.load (i32.const 12)) (i32.const 32)) (then unreachable))
             (if (i64.eqz (i64.or (i64.load (i32.const 512)) (i64.load (i32.const 536)))) (then unreachable))",
        );
        run.call(&mut store, ()).unwrap();
        let (mut store, run) = guest(RANDOM_BYTES, "(call $it (i64.const 65537) (i32.const 8))");
        let error = run.call(&mut store, ()).unwrap_err();
        assert!(format!("{error:#}").contains("65537 random bytes are wanted"), "{error:#}");
    }

    #[test]
    fn what_is_for_the_edge_traps_and_says_what_was_called() {
        let import = r#""wasi:http/client@0.3.0" "[async-lower]send" (func $it (param i32 i32) (result i32))"#;
        let (mut store, run) = guest(import, "(drop (call $it (i32.const 0) (i32.const 0)))");
        let error = run.call(&mut store, ()).unwrap_err();
        let words = "a decision may not call wasi:http/client@0.3.0#[async-lower]send";
        assert!(format!("{error:#}").contains(words), "{error:#}");
    }

    #[test]
    fn an_import_of_another_form_is_refused_when_it_is_linked() {
        let text = r#"(module (import "wasi:random/random@0.2.6" "get-random-u64" (func (param i32))))"#;
        let engine = Engine::default();
        let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        assert!(linker(&engine, &module).unwrap().instantiate_pre(&module).is_err());
    }
}
