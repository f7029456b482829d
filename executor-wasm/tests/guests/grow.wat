;; Grows by 16 MiB until it is refused, then exits with status 9.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $again
      (br_if $again (i32.ne (memory.grow (i32.const 256)) (i32.const -1))))
    (call $exit (i32.const 9))))
