;; Throws what it catches, without end, and keeps the exceptions alive.
(module
  (tag $ball (param i32))
  (func $throw (param i32) (throw $ball (local.get 0)))
  (func (export "_start")
    (loop $on
      (block $caught (result i32)
        (try_table (catch $ball $caught) (call $throw (i32.const 1)))
        (i32.const 0))
      (drop)
      (br $on))))
