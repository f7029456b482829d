;; Divides by zero two calls deep.
(module
  (func $divide (param i32) (result i32) (i32.div_s (i32.const 1) (local.get 0)))
  (func $main (drop (call $divide (i32.const 0))))
  (func (export "_start") (call $main)))
