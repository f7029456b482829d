;; A component that asks for 20 MB of random bytes at once; by itself it holds a page.
(component
  (import "wasi:random/random@0.2.0" (instance $random
    (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
  (core module $libc
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (unreachable)))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (core func $get (canon lower (func $random "get-random-bytes")
    (memory $memory) (realloc (core func $libc "realloc"))))
  (core module $main
    (import "random" "get" (func $get (param i64 i32)))
    (func (export "run") (result i32)
      (call $get (i64.const 20000000) (i32.const 0))
      (i32.const 0)))
  (core instance $main (instantiate $main
    (with "random" (instance (export "get" (func $get))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))
