(module
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 7)))
    (if (i32.ne (i32.atomic.load (i32.const 0)) (i32.const 7)) (then unreachable))))
