;; One instruction that touches all the memory it may have, again and again.
(module
  (memory 512)
  (func (export "_start")
    (loop $on
      (memory.fill (i32.const 0) (i32.const 7) (i32.const 33554432))
      (br $on))))
