;; Memory as threads share it, with a wait that nobody ends.
(module
  (memory 1 2 shared)
  (func (export "_start")
    (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1)))))
