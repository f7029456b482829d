module census

go 1.27
