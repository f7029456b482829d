;; Throws what nobody catches.
(module
  (tag $tag)
  (func $inner (throw $tag))
  (func (export "_start") (call $inner)))
