# Drawn again by: gnuplot quality-against-memory.gnuplot
set encoding utf8
set terminal svg size 817,420 noenhanced font 'Helvetica,14' background 'white' rounded
set output 'quality-against-memory.svg'
set border 3 linecolor rgb '#555555'
set tics nomirror out textcolor rgb '#222222'
set grid linecolor rgb '#E3E3E3' linewidth 1 linetype 1
set errorbars 1.2
set title 'validation accuracy against finetune peak memory (MB)'
set xlabel 'finetune peak memory (MB)'
set ylabel 'validation accuracy'
set xrange [415.68:2512.32]
set yrange [0.8369200000000001:0.9130799999999999]
set format y '%.2f'
set format x '%.0f'
set rmargin at screen 0.7222
set key at screen 0.7344,0.5 left center vertical maxcols 1 Left reverse samplen 2 spacing 1.25
$d7 << EOD
2400 0.9049999999999999 2400 2400 0.9049999999999999 0.9049999999999999
2400 0.89 2400 2400 0.89 0.89
932 0.89 932 932 0.89 0.89
932 0.875 932 932 0.875 0.875
552 0.875 552 552 0.875 0.875
552 0.86 552 552 0.86 0.86
536 0.86 536 536 0.86 0.86
536 0.8450000000000001 536 536 0.8450000000000001 0.8450000000000001
528 0.8450000000000001 528 528 0.8450000000000001 0.8450000000000001
EOD
$r7 << EOD
EOD
$d0 << EOD
908 0.86 908 908 0.856 0.864
EOD
$r0 << EOD
908 0.86 908 908 0.856 0.864
EOD
$d1 << EOD
528 0.8450000000000001 528 528 0.8410000000000001 0.8490000000000001
EOD
$r1 << EOD
528 0.8450000000000001 528 528 0.8410000000000001 0.8490000000000001
EOD
$d2 << EOD
916 0.875 916 916 0.871 0.879
EOD
$r2 << EOD
916 0.875 916 916 0.871 0.879
EOD
$d3 << EOD
536 0.86 536 536 0.856 0.864
EOD
$r3 << EOD
536 0.86 536 536 0.856 0.864
EOD
$d4 << EOD
932 0.89 932 932 0.886 0.894
EOD
$r4 << EOD
932 0.89 932 932 0.886 0.894
EOD
$d5 << EOD
552 0.875 552 552 0.871 0.879
EOD
$r5 << EOD
552 0.875 552 552 0.871 0.879
EOD
$d6 << EOD
2400 0.9049999999999999 2400 2400 0.9009999999999999 0.9089999999999999
EOD
$r6 << EOD
2400 0.9049999999999999 2400 2400 0.9009999999999999 0.9089999999999999
EOD
plot $d7 using 1:2 with lines linewidth 1.5 dashtype 2 linecolor rgb '#666666' title 'Pareto front', \
     $r0 using 1:2:3:4 with xerrorbars pointtype 0 linecolor rgb '#0072B2' notitle, \
     $r0 using 1:2:5:6 with yerrorbars pointtype 0 linecolor rgb '#0072B2' notitle, \
     $d0 using 1:2 with points pointtype 7 pointsize 1.1 linecolor rgb '#0072B2' title 'LoRA rank 2', \
     $r1 using 1:2:3:4 with xerrorbars pointtype 0 linecolor rgb '#D55E00' notitle, \
     $r1 using 1:2:5:6 with yerrorbars pointtype 0 linecolor rgb '#D55E00' notitle, \
     $d1 using 1:2 with points pointtype 5 pointsize 1.1 linecolor rgb '#D55E00' title 'QLoRA rank 2', \
     $r2 using 1:2:3:4 with xerrorbars pointtype 0 linecolor rgb '#009E73' notitle, \
     $r2 using 1:2:5:6 with yerrorbars pointtype 0 linecolor rgb '#009E73' notitle, \
     $d2 using 1:2 with points pointtype 9 pointsize 1.1 linecolor rgb '#009E73' title 'LoRA rank 4', \
     $r3 using 1:2:3:4 with xerrorbars pointtype 0 linecolor rgb '#CC79A7' notitle, \
     $r3 using 1:2:5:6 with yerrorbars pointtype 0 linecolor rgb '#CC79A7' notitle, \
     $d3 using 1:2 with points pointtype 13 pointsize 1.1 linecolor rgb '#CC79A7' title 'QLoRA rank 4', \
     $r4 using 1:2:3:4 with xerrorbars pointtype 0 linecolor rgb '#E69F00' notitle, \
     $r4 using 1:2:5:6 with yerrorbars pointtype 0 linecolor rgb '#E69F00' notitle, \
     $d4 using 1:2 with points pointtype 11 pointsize 1.1 linecolor rgb '#E69F00' title 'LoRA rank 8', \
     $r5 using 1:2:3:4 with xerrorbars pointtype 0 linecolor rgb '#56B4E9' notitle, \
     $r5 using 1:2:5:6 with yerrorbars pointtype 0 linecolor rgb '#56B4E9' notitle, \
     $d5 using 1:2 with points pointtype 15 pointsize 1.1 linecolor rgb '#56B4E9' title 'QLoRA rank 8', \
     $r6 using 1:2:3:4 with xerrorbars pointtype 0 linecolor rgb '#333333' notitle, \
     $r6 using 1:2:5:6 with yerrorbars pointtype 0 linecolor rgb '#333333' notitle, \
     $d6 using 1:2 with points pointtype 6 pointsize 1.1 linecolor rgb '#333333' title 'Full fine-tuning'
