;; Makes the file out.txt in its sandbox; exits with what the host says to opening a path that leads out of it.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 100) "out.txt")
  (data (i32.const 120) "../outside")
  (data (i32.const 200) "made by a guest")
  (func (export "_start")
    ;; Create (1) with the right to write (64).
    (if (call $open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const 7) (i32.const 1)
          (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 0))
      (then (unreachable)))
    (i32.store (i32.const 16) (i32.const 200))
    (i32.store (i32.const 20) (i32.const 15))
    (if (call $write (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i32.const 32))
      (then (unreachable)))
    (call $exit (call $open (i32.const 3) (i32.const 0) (i32.const 120) (i32.const 10) (i32.const 1)
          (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 0)))))
