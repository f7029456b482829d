;; Uses up its stack.
(module (func $deeper (export "_start") (call $deeper) (call $deeper)))
