;; Grows its memory page by page and writes into each, however often it is refused.
(module
  (memory 1)
  (func (export "_start") (local $page i32)
    (loop $on
      (local.set $page (memory.grow (i32.const 1)))
      (if (i32.ne (local.get $page) (i32.const -1))
        (then (i32.store (i32.shl (local.get $page) (i32.const 16)) (i32.const 1))))
      (br $on))))
