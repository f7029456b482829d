;; Writes a file a terabyte long by its last byte, and reads it through.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $size (param i32 i64) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 512)
  (data (i32.const 64) "large")
  (func (export "_start")
    (drop (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 5) (i32.const 1)
      (i64.const 0x400042) (i64.const 0) (i32.const 0) (i32.const 0)))
    (drop (call $size (i32.load (i32.const 0)) (i64.const 1099511627776)))
    (i32.store (i32.const 16) (i32.const 65536))
    (i32.store (i32.const 20) (i32.const 33000000))
    (loop $on
      (drop (call $read (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i32.const 32)))
      (br $on))))
