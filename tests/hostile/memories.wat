;; Has many memories, each as large as one can be.
(module
  (memory $a 1 65536) (memory $b 1 65536) (memory $c 1 65536) (memory $d 1 65536)
  (memory $e 1 65536) (memory $f 1 65536) (memory $g 1 65536) (memory $h 1 65536)
  (func (export "_start")
    (loop $on
      (drop (memory.grow $a (i32.const 100))) (drop (memory.grow $b (i32.const 100)))
      (drop (memory.grow $c (i32.const 100))) (drop (memory.grow $d (i32.const 100)))
      (drop (memory.grow $e (i32.const 100))) (drop (memory.grow $f (i32.const 100)))
      (drop (memory.grow $g (i32.const 100))) (drop (memory.grow $h (i32.const 100)))
      (br $on))))
