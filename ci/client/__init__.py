"""bt, bs, bl: the command line of the clients, standard library only."""
