;; Never comes to its entrypoint: the function that instantiation calls does not end.
(module
  (func $begin (loop $on (br $on)))
  (start $begin)
  (func (export "_start")))
