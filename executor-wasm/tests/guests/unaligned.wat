;; Has the host write a number where no number of that size can lie.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (drop (call $sizes (i32.const 1) (i32.const 3)))))
