;; Makes the file out.txt in its first volume, /data; exits with what the host says to making it in the second one.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_dir_name" (func $name (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 100) "out.txt")
  (data (i32.const 200) "made by a guest")
  (func (export "_start")
    (if (call $name (i32.const 4) (i32.const 300) (i32.const 5)) (then (unreachable)))
    ;; "/dat" and "a".
    (if (i32.ne (i32.load (i32.const 300)) (i32.const 0x7461642f)) (then (unreachable)))
    (if (i32.ne (i32.load8_u (i32.const 304)) (i32.const 0x61)) (then (unreachable)))
    ;; Create (1) with the right to write (64).
    (if (call $open (i32.const 4) (i32.const 0) (i32.const 100) (i32.const 7) (i32.const 1)
          (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 0))
      (then (unreachable)))
    (i32.store (i32.const 16) (i32.const 200))
    (i32.store (i32.const 20) (i32.const 15))
    (if (call $write (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i32.const 32))
      (then (unreachable)))
    (call $exit (call $open (i32.const 5) (i32.const 0) (i32.const 100) (i32.const 7) (i32.const 1)
          (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 0)))))
