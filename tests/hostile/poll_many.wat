;; Waits for a hundred thousand things at once.
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 512)
  (func (export "_start")
    (loop $on
      (drop (call $poll (i32.const 0) (i32.const 16777216) (i32.const 100000) (i32.const 8)))
      (br $on))))
