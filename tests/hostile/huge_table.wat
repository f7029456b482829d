;; Declares a table of hundreds of millions of elements.
(module
  (table 400000000 funcref)
  (func (export "_start")))
