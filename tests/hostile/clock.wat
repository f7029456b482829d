;; Asks for the time without end.
(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $on
      (drop (call $time (i32.const 1) (i64.const 1) (i32.const 0)))
      (br $on))))
