# Drawn again by: gnuplot benchmark-forward-ms-mean-by-batch-size-and-sequence-length.gnuplot
set encoding utf8
set terminal svg size 720,350 noenhanced font 'Helvetica,14' background 'white' rounded
set output 'benchmark-forward-ms-mean-by-batch-size-and-sequence-length.svg'
set palette defined (0 '#F7FBFF', 0.25 '#C6DBEF', 0.5 '#6BAED6', 0.75 '#2171B5', 1 '#08306B')
set cbrange [0:1]
unset colorbox
unset key
set border 0
set tics scale 0
set xrange [-0.5:3.5]
set yrange [-0.5:2.5]
set xtics ('64' 0, '128' 1, '256' 2, '512' 3)
set ytics ('1' 0, '4' 1, '16' 2)
set xlabel 'sequence length (tokens)'
set ylabel 'batch size'
set multiplot layout 1,2 title 'benchmark forward time (ms) by batch size and sequence length'
$b0 << EOD
0 0 -0.48 0.48 -0.48 0.48 0.0000
1 0 0.52 1.48 -0.48 0.48 0.0628
2 0 1.52 2.48 -0.48 0.48 0.1580
3 0 2.52 3.48 -0.48 0.48 0.2868
0 1 -0.48 0.48 0.52 1.48 0.1580
1 1 0.52 1.48 0.52 1.48 0.2868
2 1 1.52 2.48 0.52 1.48 0.4434
3 1 2.52 3.48 0.52 1.48 0.6192
0 2 -0.48 0.48 1.52 2.48 0.4434
1 2 0.52 1.48 1.52 2.48 0.6192
2 2 1.52 2.48 1.52 2.48 0.8064
3 2 2.52 3.48 1.52 2.48 1.0000
EOD
$l0 << EOD
3 1 "44.96"
1 2 "44.96"
2 2 "85.92"
3 2 "167.8"
EOD
$k0 << EOD
0 0 "5.280"
1 0 "6.560"
2 0 "9.120"
3 0 "14.24"
0 1 "9.120"
1 1 "14.24"
2 1 "24.48"
0 2 "24.48"
EOD
set title 'quantize skip'
plot $b0 using 1:2:3:4:5:6:7 with boxxyerror fillstyle solid noborder linecolor palette, \
     $l0 using 1:2:3 with labels textcolor rgb 'white', \
     $k0 using 1:2:3 with labels textcolor rgb '#1A1A1A'
$b1 << EOD
0 0 -0.48 0.48 -0.48 0.48 0.0203
1 0 0.52 1.48 -0.48 0.48 0.0948
2 0 1.52 2.48 -0.48 0.48 0.2030
3 0 2.52 3.48 -0.48 0.48 0.3433
0 1 -0.48 0.48 0.52 1.48 0.2030
1 1 0.52 1.48 0.52 1.48 0.3433
2 1 1.52 2.48 0.52 1.48 0.5082
3 1 2.52 3.48 0.52 1.48 0.6890
0 2 -0.48 0.48 1.52 2.48 0.5082
1 2 0.52 1.48 1.52 2.48 0.6890
2 2 1.52 2.48 1.52 2.48 0.8791
EOD
$l1 << EOD
3 1 "57.25"
1 2 "57.25"
2 2 "110.5"
EOD
$k1 << EOD
0 0 "5.664"
1 0 "7.328"
2 0 "10.66"
3 0 "17.31"
0 1 "10.66"
1 1 "17.31"
2 1 "30.62"
0 2 "30.62"
EOD
set title 'quantize run'
plot $b1 using 1:2:3:4:5:6:7 with boxxyerror fillstyle solid noborder linecolor palette, \
     $l1 using 1:2:3 with labels textcolor rgb 'white', \
     $k1 using 1:2:3 with labels textcolor rgb '#1A1A1A'
unset multiplot
