module swift

go 1.24
