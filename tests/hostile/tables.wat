;; Grows several tables as far as it is let.
(module
  (table $one 1 funcref) (table $two 1 externref) (table $three 1 funcref)
  (func (export "_start")
    (loop $on
      (drop (table.grow $one (ref.null func) (i32.const 65536)))
      (drop (table.grow $two (ref.null extern) (i32.const 65536)))
      (drop (table.grow $three (ref.null func) (i32.const 65536)))
      (br $on))))
