;; Fills all its memory with random bytes in one call, again and again.
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (memory (export "memory") 768)
  (func (export "_start")
    (loop $on
      (drop (call $random (i32.const 0) (i32.const 50331648)))
      (br $on))))
