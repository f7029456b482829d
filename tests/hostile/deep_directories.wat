;; Makes a directory in a directory in a directory, moving the top one into the next.
(module
  (import "wasi_snapshot_preview1" "path_create_directory" (func $make (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "a") (data (i32.const 72) "b/a") (data (i32.const 80) "b")
  (func (export "_start")
    (drop (call $make (i32.const 3) (i32.const 64) (i32.const 1)))
    (loop $on
      (drop (call $make (i32.const 3) (i32.const 80) (i32.const 1)))
      (drop (call $rename (i32.const 3) (i32.const 64) (i32.const 1) (i32.const 3) (i32.const 72) (i32.const 3)))
      (drop (call $rename (i32.const 3) (i32.const 80) (i32.const 1) (i32.const 3) (i32.const 64) (i32.const 1)))
      (br $on))))
