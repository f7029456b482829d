;; A command that divides by zero.
(component
  (core module $main
    (func $inner (export "inner") (drop (i32.div_s (i32.const 1) (i32.const 0))))
    (func (export "run") (result i32) (call $inner) (i32.const 0)))
  (core instance $main (instantiate $main))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))
