@{c_header}
