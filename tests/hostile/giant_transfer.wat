;; Writes nearly all its memory to a file in one call and reads it back in another, again and again.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_pwrite" (func $write (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_pread" (func $read (param i32 i32 i32 i64 i32) (result i32)))
  (memory (export "memory") 900)
  (data (i32.const 64) "large")
  (func (export "_start")
    (drop (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 5) (i32.const 1)
      (i64.const 0x46) (i64.const 0) (i32.const 0) (i32.const 0)))
    (i32.store (i32.const 16) (i32.const 65536))
    (i32.store (i32.const 20) (i32.const 58900000))
    (loop $on
      (drop (call $write (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i64.const 0) (i32.const 32)))
      (drop (call $read (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i64.const 0) (i32.const 32)))
      (br $on))))
