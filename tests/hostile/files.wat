;; Makes directories, each with a name of its own, without end, and lists them all now and then.
(module
  (import "wasi_snapshot_preview1" "path_create_directory" (func $make (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $list (param i32 i32 i32 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $number i32) (local $at i32) (local $left i32)
    (loop $on
      (local.set $number (i32.add (local.get $number) (i32.const 1)))
      (local.set $left (local.get $number))
      (local.set $at (i32.const 64))
      (loop $digit
        (i32.store8 (local.get $at) (i32.add (i32.const 97) (i32.and (local.get $left) (i32.const 15))))
        (local.set $left (i32.shr_u (local.get $left) (i32.const 4)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $digit (local.get $left)))
      (drop (call $make (i32.const 3) (i32.const 64) (i32.sub (local.get $at) (i32.const 64))))
      (if (i32.eqz (i32.and (local.get $number) (i32.const 1023)))
        (then (drop (call $list (i32.const 3) (i32.const 1024) (i32.const 4096) (i64.const 0) (i32.const 0)))))
      (br $on))))
